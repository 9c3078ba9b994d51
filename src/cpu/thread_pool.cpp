#include "thread_pool.h"

#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>

namespace fqla::cpu {
namespace {

// Workers look for a job this often before they sleep: some tens of microseconds, the gap between the layers of a decoding model.
constexpr int kSpins = 4000;

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

int allowed_cpus() {
    cpu_set_t set;
    CPU_ZERO(&set);
    // A mask of more CPUs than cpu_set_t holds: as many as are online.
    const long count = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : sysconf(_SC_NPROCESSORS_ONLN);
    return count > 0 ? static_cast<int>(count) : 1;
}

int clamp_threads(int threads) {
    const int wanted = threads > 0 ? threads : allowed_cpus();
    return wanted < ThreadPool::kMaxThreads ? wanted : ThreadPool::kMaxThreads;
}

}  // namespace

ThreadPool::ThreadPool(int threads) : threads_(clamp_threads(threads)) {
    pthread_mutex_init(&call_mutex_, nullptr);
    pthread_mutex_init(&sleep_mutex_, nullptr);
    pthread_cond_init(&wake_, nullptr);
    const size_t count = static_cast<size_t>(threads_);
    scratch_ = static_cast<char*>(std::aligned_alloc(4096, count * kScratchBytes));
    workers_ = static_cast<Worker*>(std::malloc(count * sizeof(Worker)));  // plain data; the library does without operator new
    ok_ = scratch_ && workers_ && start_workers();
}

ThreadPool::~ThreadPool() {
    pthread_mutex_lock(&sleep_mutex_);
    stop_.store(true);
    pthread_cond_broadcast(&wake_);
    pthread_mutex_unlock(&sleep_mutex_);
    for (int i = 0; i < started_; i++) pthread_join(workers_[i].handle, nullptr);
    std::free(workers_);
    std::free(scratch_);
    pthread_cond_destroy(&wake_);
    pthread_mutex_destroy(&sleep_mutex_);
    pthread_mutex_destroy(&call_mutex_);
}

bool ThreadPool::start_workers() {
    // Signals are the program's: none of its handlers shall run on a thread of ours.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int i = 0; i < threads_ - 1; i++) {
        workers_[i].pool = this;
        workers_[i].index = i + 1;  // the caller is thread 0
        if (pthread_create(&workers_[i].handle, nullptr, worker_main, &workers_[i]) != 0) break;
        started_ = i + 1;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return started_ == threads_ - 1;
}

void* ThreadPool::worker_main(void* worker) {
    Worker* self = static_cast<Worker*>(worker);
    self->pool->work(self->index);
    return nullptr;
}

void ThreadPool::work(int thread) {
    uint64_t seen = 0;  // the last offer looked at
    while (!stop_.load(std::memory_order_relaxed)) {
        if (join_job(seen)) {
            if (thread < job_workers_) take_tasks(thread);
            offer_.fetch_sub(1, std::memory_order_release);
        } else {
            wait_for_job(seen);
        }
    }
}

// Enters the open job if it is not the one already seen.
bool ThreadPool::join_job(uint64_t& seen) {
    uint64_t offer = offer_.load(std::memory_order_acquire);
    while ((offer & kOpen) && offer / kJob != seen) {
        if (offer_.compare_exchange_weak(offer, offer + 1, std::memory_order_acq_rel)) {
            seen = offer / kJob;
            return true;
        }
    }
    return false;
}

void ThreadPool::wait_for_job(uint64_t seen) {
    const auto idle = [&] {
        const uint64_t offer = offer_.load(std::memory_order_seq_cst);
        return (!(offer & kOpen) || offer / kJob == seen) && !stop_.load(std::memory_order_relaxed);
    };
    for (int i = 0; i < kSpins; i++) {
        if (!idle()) return;
        relax();
    }
    pthread_mutex_lock(&sleep_mutex_);
    sleepers_.fetch_add(1, std::memory_order_seq_cst);  // before the last look, so that publish_job sees this sleeper or idle() the job
    while (idle()) pthread_cond_wait(&wake_, &sleep_mutex_);
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
    pthread_mutex_unlock(&sleep_mutex_);
}

void ThreadPool::publish_job() {
    offer_.store((offer_.load(std::memory_order_relaxed) / kJob + 1) * kJob + kOpen, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) == 0) return;
    pthread_mutex_lock(&sleep_mutex_);
    pthread_cond_broadcast(&wake_);
    pthread_mutex_unlock(&sleep_mutex_);
}

void ThreadPool::close_job() {
    uint64_t offer = offer_.fetch_and(~kOpen, std::memory_order_acq_rel);
    for (int spins = 0; offer & kInside; spins++) {
        if (spins < kSpins)
            relax();
        else
            sched_yield();  // more threads than free cores
        offer = offer_.load(std::memory_order_acquire);
    }
}

void ThreadPool::take_tasks(int thread) {
    for (int64_t i; (i = next_task_.fetch_add(1, std::memory_order_relaxed)) < tasks_;) task_(context_, i, thread);
}

void ThreadPool::run_job(int64_t tasks, int workers, Task task, const void* context) {
    pthread_mutex_lock(&call_mutex_);
    task_ = task;
    context_ = context;
    tasks_ = tasks;
    job_workers_ = workers < threads_ ? workers : threads_;
    next_task_.store(0, std::memory_order_relaxed);
    const bool shared = tasks > 1 && job_workers_ > 1;
    if (shared) publish_job();
    take_tasks(0);
    if (shared) close_job();
    pthread_mutex_unlock(&call_mutex_);
}

}  // namespace fqla::cpu
