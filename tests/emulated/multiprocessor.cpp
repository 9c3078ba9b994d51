// _longjmp goes from stack to stack here, which the fortified one takes for an error.
#undef _FORTIFY_SOURCE
#include "multiprocessor.h"

#include <ucontext.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "numbers.h"

namespace emulated {

thread_local Thread* t_thread;
thread_local Multiprocessor* t_multiprocessor;
Dim g_grid, g_block;

namespace {

constexpr size_t kStackBytes = 128 << 10;
constexpr uint32_t kAlignment = 1024;
constexpr long kStallOdds = 2000, kLongestStall = 500;  // a warp now and then lags behind the others by so many turns

bool round_is_over(const void* rounds, uint64_t before) { return *static_cast<const uint64_t*>(rounds) != before; }

bool products_issued(const void* threads, uint64_t count) {
    const Thread* t = static_cast<const Thread*>(threads);
    return std::all_of(t, t + kGroup, [&](const Thread& x) { return !x.product_groups.empty() && x.product_groups.back() >= count; });
}

int warp_of(const Thread& t) { return static_cast<int>(t.thread.x) / kWarp; }
int lane_of(const Thread& t) { return static_cast<int>(t.thread.x) % kWarp; }
int group_of(const Thread& t) { return static_cast<int>(t.thread.x) / kGroup; }

}  // namespace

Multiprocessor::Multiprocessor() : shared_(kMaxCluster * (kSharedBytes + kAlignment) + kAlignment) {
    uintptr_t at = reinterpret_cast<uintptr_t>(shared_.data());
    for (Block& b : blocks_) {
        at = (at + kAlignment - 1) / kAlignment * kAlignment;
        b.shared = reinterpret_cast<char*>(at);
        at += kSharedBytes;
    }
}

void Multiprocessor::fail(const char* format, ...) {
    fflush(stdout);
    fprintf(stderr, "%s, block (%u, %u, %u)", launch_->name, first_block_.x, first_block_.y, first_block_.z);
    if (t_thread) fprintf(stderr, ", rank %d, thread %u", t_thread->rank, t_thread->thread.x);
    fprintf(stderr, ": ");
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\n");
    abort();
}

Block& Multiprocessor::block() { return blocks_[t_thread->rank]; }

bool Multiprocessor::often() { return dice_() & 64; }

char* Multiprocessor::at(uint32_t address, uint32_t bytes) {
    const uint32_t rank = address >> kRankShift, offset = address & kOffsetMask;
    if (rank >= static_cast<uint32_t>(launch_->cluster) || offset + bytes > launch_->shared_bytes)
        fail("%u bytes at %u of block %u's shared memory, which has %u", bytes, offset, rank, launch_->shared_bytes);
    return blocks_[rank].shared + offset;
}

// ---- turns

// The first entry to a thread's stack; from then on threads and scheduler jump.
void Multiprocessor::start() {
    Multiprocessor& m = machine();
    m.launch_->body();
    me().done = true;
    m.live_--;
    _longjmp(m.scheduler_, 1);
}

void Multiprocessor::switch_to(Thread& t) {
    t_thread = &t;
    if (_setjmp(scheduler_) == 0) {
        if (t.started) _longjmp(t.here, 1);
        t.started = true;
        ucontext_t context;
        getcontext(&context);
        context.uc_stack.ss_sp = t.stack.get();
        context.uc_stack.ss_size = kStackBytes;
        context.uc_link = nullptr;
        makecontext(&context, &Multiprocessor::start, 0);
        setcontext(&context);
    }
    t_thread = nullptr;
}

void Multiprocessor::wait(const Wait& w) {
    if (w.ready(w.object, w.value)) return;
    Thread& t = me();
    t.wait = w;
    if (_setjmp(t.here) == 0) _longjmp(scheduler_, 1);
    t.wait.ready = nullptr;
}

bool Multiprocessor::run_ready(int warp) {
    bool ran = false;
    for (int i = warp * kWarp; i < (warp + 1) * kWarp; i++) {
        Thread& t = threads_[static_cast<size_t>(i)];
        if (t.done || (t.wait.ready && !t.wait.ready(t.wait.object, t.wait.value))) continue;
        switch_to(t);
        ran = true;
    }
    return ran;
}

void Multiprocessor::run_errands(bool all) {
    for (size_t i = 0; i < errands_.size();) {
        if (!all && dice_() % 16) {
            i++;
            continue;
        }
        const std::function<void()> errand = std::move(errands_[i]);
        errands_.erase(errands_.begin() + static_cast<long>(i));
        errand();
    }
}

void Multiprocessor::run(const Launch& launch, Dim first_block) {
    t_multiprocessor = this;
    launch_ = &launch;
    first_block_ = first_block;
    dice_.seed(static_cast<unsigned>(launch.seed + first_block.x + 977 * first_block.y + 104729 * first_block.z) | 1);
    dice_.discard(8);
    early_ = often();
    const size_t count = static_cast<size_t>(launch.threads) * static_cast<size_t>(launch.cluster);
    if (threads_.size() < count) threads_.resize(count);
    for (int rank = 0; rank < launch.cluster; rank++) {
        Block& b = blocks_[rank];
        memset(b.shared, 0xFF, launch.shared_bytes);
        std::fill(std::begin(b.warps), std::end(b.warps), Meeting{});
        std::fill(std::begin(b.named), std::end(b.named), NamedBarrier{});
        std::fill(std::begin(b.products_done), std::end(b.products_done), size_t{0});
        for (int i = 0; i < launch.threads; i++) {
            Thread& t = threads_[static_cast<size_t>(rank * launch.threads + i)];
            t.thread = {static_cast<unsigned>(i), 0, 0};
            t.block = {first_block.x + static_cast<unsigned>(rank), first_block.y, first_block.z};
            t.rank = rank;
            t.done = t.started = false;
            t.wait = {};
            if (!t.stack) t.stack.reset(new char[kStackBytes]);
            t.products.clear(), t.product_groups.clear(), t.stores.clear(), t.copies.clear();
            t.store_groups = t.copy_groups = 0;
        }
    }
    cluster_barrier_ = {};
    live_ = static_cast<int>(count);
    std::vector<int> warps(count / kWarp);
    std::vector<long> stalled(warps.size(), 0);
    for (size_t i = 0; i < warps.size(); i++) warps[i] = static_cast<int>(i);
    for (long turn = 0; live_; turn++) {
        bool ran = false, stalls = false;
        if (turn % 8 == 0) std::shuffle(warps.begin(), warps.end(), dice_);
        for (const int w : warps) {
            long& until = stalled[static_cast<size_t>(w)];
            if (dice_() % kStallOdds == 0) until = turn + static_cast<long>(dice_() % kLongestStall);
            if (turn < until)
                stalls = true;
            else
                ran |= run_ready(w);
        }
        if (ran) {
            run_errands(false);
        } else if (!errands_.empty()) {
            run_errands(true);
        } else if (stalls) {
            std::fill(stalled.begin(), stalled.end(), 0);
        } else if (live_) {
            report_deadlock();
        }
    }
    run_errands(true);
    for (size_t i = 0; i < count; i++)
        if (!threads_[i].stores.empty()) t_thread = &threads_[i], fail("the block has ended while the copy engine's stores may still read its shared memory");
    t_thread = nullptr;
}

void Multiprocessor::report_deadlock() {
    fprintf(stderr, "%s, block (%u, %u, %u): no thread can go on\n", launch_->name, first_block_.x, first_block_.y, first_block_.z);
    const size_t count = static_cast<size_t>(launch_->threads) * static_cast<size_t>(launch_->cluster);
    for (size_t i = 0; i < count; i += kWarp)
        for (size_t j = i; j < i + kWarp; j++) {
            const Thread& t = threads_[j];
            if (j > i && t.done == threads_[j - 1].done && t.wait.object == threads_[j - 1].wait.object) continue;
            fprintf(stderr, "  rank %d, thread %u: ", t.rank, t.thread.x);
            if (t.done)
                fprintf(stderr, "has ended\n");
            else
                fprintf(stderr, "waits for %s, %llu\n", t.wait.what, static_cast<unsigned long long>(t.wait.value));
        }
    abort();
}

// ---- meetings

const uint64_t* Multiprocessor::meet_warp_all(uint64_t brought) {
    Meeting& m = block().warps[warp_of(me())];
    m.brought[lane_of(me())] = brought;
    if (++m.arrived == kWarp) {
        memcpy(m.seen, m.brought, sizeof m.seen);
        m.arrived = 0;
        m.rounds++;
    } else {
        wait({round_is_over, &m.rounds, m.rounds, "the other lanes"});
    }
    return m.seen;
}

void Multiprocessor::arrive_named(int id, int threads) {
    if (id < 0 || id >= kNamedBarriers || threads % kWarp) fail("named barrier %d of %d threads", id, threads);
    NamedBarrier& b = block().named[id];
    if (++b.arrived == threads) b.arrived = 0, b.rounds++;
}

void Multiprocessor::sync_named(int id, int threads) {
    NamedBarrier& b = block().named[id];
    const uint64_t before = b.rounds;
    arrive_named(id, threads);
    wait({round_is_over, &b.rounds, before, "a barrier of the block"});
}

void Multiprocessor::sync_cluster() {
    const uint64_t before = cluster_barrier_.rounds;
    if (++cluster_barrier_.arrived == launch_->threads * launch_->cluster) cluster_barrier_.arrived = 0, cluster_barrier_.rounds++;
    wait({round_is_over, &cluster_barrier_.rounds, before, "the cluster"});
}

void Multiprocessor::later(std::function<void()> errand) {
    if (early_)
        errand();
    else
        errands_.push_back(std::move(errand));
}

// ---- products of a warpgroup

void Multiprocessor::finish_products(size_t count) {
    const int group = group_of(me()), rank = me().rank;
    const Thread* first = &threads_[static_cast<size_t>(rank * launch_->threads + group * kGroup)];
    wait({products_issued, first, count, "the warpgroup's other warps to issue their products"});
    for (size_t& done = blocks_[rank].products_done[group]; done < count;) run_product(done++, rank, group);
}

namespace {

// Element (row of the tile, 16-bit column) of an operand whose rows of 128 bytes are swizzled.
float tile_element(const char* shared, uint64_t descriptor, int row, int column, bool is_bf16) {
    // Blocks of 64 columns lie `next` bytes apart.
    const uint32_t base = static_cast<uint32_t>(descriptor), next = static_cast<uint32_t>(descriptor >> 32);
    const uint32_t at = base + static_cast<uint32_t>(row) * 128 + static_cast<uint32_t>(column % 64) * 2 + static_cast<uint32_t>(column / 64) * next;
    uint16_t bits;
    memcpy(&bits, shared + swizzle_128(at), 2);
    return widen(bits, is_bf16);
}

}  // namespace

void Multiprocessor::run_product(size_t index, int rank, int group) {
    Thread* threads = &threads_[static_cast<size_t>(rank * launch_->threads + group * kGroup)];
    const Product& x = threads[0].products[index];
    const char* shared = blocks_[rank].shared;
    static thread_local float a[64][16], b[16][128], d[64][128];
    for (int k = 0; k < 16; k++)
        for (int n = 0; n < x.n; n++) b[k][n] = x.b_columns ? tile_element(shared, x.b, k, n, x.is_bf16) : tile_element(shared, x.b, n, k, x.is_bf16);
    for (int t = 0; t < kGroup; t++) {
        const Product& y = threads[t].products[index];
        if (y.b != x.b || y.n != x.n || y.add != x.add || y.a_in_registers != x.a_in_registers || (!x.a_in_registers && y.a != x.a))
            t_thread = &threads[t], fail("the threads of a warpgroup disagree about product %zu", index);
        const int row = 16 * (t / kWarp) + t % kWarp / 4, column = 2 * (t % 4);
        for (int r = 0; r < 4 && x.a_in_registers; r++)
            for (int e = 0; e < 2; e++) a[row + 8 * (r & 1)][column + 8 * (r >> 1) + e] = widen(static_cast<uint16_t>(y.a_registers[r] >> (16 * e)), x.is_bf16);
        for (int i = 0; i < x.n / 2; i++) d[row + 8 * (i >> 1 & 1)][8 * (i / 4) + column + (i & 1)] = x.add ? y.d[i] : 0.f;
    }
    for (int m = 0; m < 64 && !x.a_in_registers; m++)
        for (int k = 0; k < 16; k++) a[m][k] = x.a_transposed ? tile_element(shared, x.a, k, m, x.is_bf16) : tile_element(shared, x.a, m, k, x.is_bf16);
    for (int m = 0; m < 64; m++)
        for (int k = 0; k < 16; k++)
            for (int n = 0; n < x.n; n++) d[m][n] += a[m][k] * b[k][n];
    for (int t = 0; t < kGroup; t++) {
        const Product& y = threads[t].products[index];
        const int row = 16 * (t / kWarp) + t % kWarp / 4, column = 2 * (t % 4);
        for (int i = 0; i < x.n / 2; i++) y.d[i] = d[row + 8 * (i >> 1 & 1)][8 * (i / 4) + column + (i & 1)];
    }
}

}  // namespace emulated
