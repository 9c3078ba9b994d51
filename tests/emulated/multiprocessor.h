// A multiprocessor of Hopper on the CPU: the threads of one block, or of one cluster, take turns on one host thread, each on a stack of its
// own, and change over only where they wait. What a GPU does behind a thread's back (bulk copies, products of a warpgroup) is done late or early
// by the dice, so that a wait that is missing shows as a wrong result, and the order of warps is drawn too. Dynamic shared memory starts as NaN.
//
// It shows whether results, barriers and addresses are right. It knows nothing of time, of registers (those of operands in flight too), of order among
// lanes, of proxies and of memory ordering.
#pragma once
#include <csetjmp>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <vector>

namespace emulated {

constexpr int kWarp = 32, kGroup = 128, kMaxCluster = 8, kNamedBarriers = 16;
constexpr uint32_t kSharedBytes = 227 * 1024, kRankShift = 24, kOffsetMask = (1u << kRankShift) - 1;

struct Dim {
    unsigned x, y, z;
};

// One warpgroup product as a thread issued it. Descriptors are of all 128 threads, fragments each thread's own.
struct Product {
    float* d;  // N / 2 accumulators of the thread
    int n;
    bool add, a_in_registers, a_transposed, b_columns, is_bf16;
    uint32_t a_registers[4];
    uint64_t a, b;
};

// What a thread waits for: ready(object, value) tells whether it may go on.
struct Wait {
    bool (*ready)(const void* object, uint64_t value);
    const void* object;
    uint64_t value;
    const char* what;
};

// Something asynchronous of a thread: a copy by the copy engine or by cp.async.
struct Errand {
    std::function<void()> run;
    int group;  // of the thread's commits; -1: not in one yet, or in none
};

class Multiprocessor;

struct Thread {
    Multiprocessor* machine;
    Dim thread, block;
    int rank;  // in the cluster
    bool done;
    Wait wait;
    jmp_buf here;
    std::unique_ptr<char, void (*)(void*)> stack{nullptr, nullptr};
    bool started;
    // Products issued, and how many of them each commit has closed.
    std::vector<Product> products;
    std::vector<size_t> product_groups;
    // Stores and cp.async copies that are under way.
    std::vector<Errand> stores, copies;
    int store_groups, copy_groups;
    uint64_t cluster_round;  // that it has arrived in
};

// At the low end of a thread's stack.
struct StackBottom {
    Thread* thread;
    uint64_t canary;
};

extern Dim g_grid, g_block;  // of the launch under way; one at a time

constexpr uintptr_t kStackBytes = 128 << 10;

// The running thread: its address lies at the bottom of its stack, which is aligned to its size.
inline Thread& me() { return *reinterpret_cast<StackBottom*>(reinterpret_cast<uintptr_t>(__builtin_frame_address(0)) & ~(kStackBytes - 1))->thread; }
inline Multiprocessor& machine() { return *me().machine; }

// Where n threads meet: what each brought is there for all of them.
struct Meeting {
    int arrived = 0;
    uint64_t rounds = 0;
    uint64_t brought[kWarp], seen[kWarp];
};

struct NamedBarrier {
    int arrived = 0, expected = 0;
    uint64_t rounds = 0;
};

struct Block {
    char* shared;
    Meeting warps[32];
    NamedBarrier named[kNamedBarriers];
    size_t products_done[8];  // of each warpgroup
};

struct Launch {
    const char* name;
    std::function<void()> body;  // of one thread
    int threads, cluster;
    uint32_t shared_bytes;
    uint64_t seed;
};

class Multiprocessor {
public:
    Multiprocessor();
    Multiprocessor(const Multiprocessor&) = delete;
    Multiprocessor& operator=(const Multiprocessor&) = delete;

    void run(const Launch& launch, Dim first_block);  // a block, or a cluster from this block on

    // By the threads that run on it.
    void wait(const Wait& w);
    void later(std::function<void(Multiprocessor&)> errand);  // by the copy engine, at some time
    char* at(uint32_t address, uint32_t bytes);
    const uint64_t* meet_warp(uint64_t brought);  // what all lanes have brought
    void arrive_named(int id, int threads);
    void sync_named(int id, int threads);
    void arrive_cluster();
    void wait_cluster();
    void finish_products(size_t count);
    bool early() const { return early_; }  // products and copies of this block are done where they are issued
    Block& block() { return blocks_[me().rank]; }
    [[noreturn]] void fail(const char* format, ...);

private:
    static void start();
    NamedBarrier& named(int id, int threads);  // of the running thread's block
    void arrive(NamedBarrier& b, int threads);
    void sync(NamedBarrier& b, int threads, const char* what);
    void switch_to(Thread& t);
    bool run_ready(int warp);
    void run_errands(bool all);
    size_t run_products(size_t first, size_t end, int rank, int group);
    [[noreturn]] void report_deadlock();

    std::vector<Thread> threads_;
    Block blocks_[kMaxCluster];
    std::vector<char> shared_;
    std::vector<std::function<void(Multiprocessor&)>> errands_;
    NamedBarrier cluster_barrier_;
    const Launch* launch_ = nullptr;
    Dim first_block_{};
    int live_ = 0;
    bool early_ = false;
    std::minstd_rand dice_;
    Thread* running_ = nullptr;
    jmp_buf scheduler_;
};

// A commit of what a thread has under way, and the end of all but its latest groups.
inline void close_group(std::vector<Errand>& errands, int& groups) {
    for (Errand& e : errands)
        if (e.group < 0) e.group = groups;
    groups++;
}
inline void finish_groups(std::vector<Errand>& errands, int before) {
    size_t kept = 0;
    for (Errand& e : errands)
        if (e.group >= 0 && e.group < before)
            e.run();
        else
            std::swap(errands[kept++], e);
    errands.resize(kept);
}

}  // namespace emulated
