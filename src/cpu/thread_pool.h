// The threads of a CPU handle. On pthreads: std::thread of a static libstdc++ would need GLIBC_2.36.
#pragma once
#include <pthread.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace fqla::cpu {

class ThreadPool {
public:
    static constexpr int kMaxThreads = 1024;
    // Private memory of each thread, so that no call allocates: the widest forward and backward scratch (see kernels.h, oracle.h).
    static constexpr size_t kScratchBytes = size_t{3} << 20;

    // `threads` work on a call, the caller's among them; 0 = all this process may run on. Check ok() before use.
    explicit ThreadPool(int threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    bool ok() const { return ok_; }  // false: no memory or no threads
    int threads() const { return threads_; }
    void* scratch(int thread) const { return scratch_ + static_cast<size_t>(thread) * kScratchBytes; }  // 64-byte aligned

    // Calls body(task, thread) for every task in [0, tasks), thread in [0, min(threads(), workers)). Tasks are handed out in order and
    // must not depend on which thread runs them. Returns when all are done. Calls from several threads take turns.
    template <class Body>
    void run(int64_t tasks, int workers, const Body& body) {
        const auto call = [](const void* context, int64_t task, int thread) { (*static_cast<const Body*>(context))(task, thread); };
        run_job(tasks, workers, call, &body);
    }

private:
    using Task = void (*)(const void* context, int64_t task, int thread);
    struct Worker {
        ThreadPool* pool;
        int index;
        pthread_t handle;
    };

    void run_job(int64_t tasks, int workers, Task task, const void* context);
    void take_tasks(int thread);
    void publish_job();
    bool join_job(uint64_t& seen);
    void close_job();
    void wait_for_job(uint64_t seen);
    void work(int thread);
    bool start_workers();
    static void* worker_main(void* worker);

    // The job on offer. `offer_` holds its number, whether it may still be joined, and how many workers are in it, so that joining and
    // closing are one atomic step each: a worker that wakes up late finds the job closed, and the caller never waits for it.
    static constexpr uint64_t kOpen = 1ull << 16, kJob = 1ull << 17, kInside = kOpen - 1;
    alignas(64) std::atomic<uint64_t> offer_{0};
    alignas(64) std::atomic<int64_t> next_task_{0};
    Task task_ = nullptr;
    const void* context_ = nullptr;
    int64_t tasks_ = 0;
    int job_workers_ = 0;

    alignas(64) std::atomic<int> sleepers_{0};
    std::atomic<bool> stop_{false};
    pthread_mutex_t call_mutex_, sleep_mutex_;
    pthread_cond_t wake_;
    int threads_ = 0, started_ = 0;
    bool ok_ = false;
    char* scratch_ = nullptr;
    Worker* workers_ = nullptr;
};

}  // namespace fqla::cpu
