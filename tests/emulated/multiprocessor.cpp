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

Dim g_grid, g_block;

namespace {

constexpr uint32_t kAlignment = 1024;
constexpr uint64_t kUntouched = 0x5AFE57AC5AFE57ACull;
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
    if (running_) fprintf(stderr, ", rank %d, thread %u", running_->rank, running_->thread.x);
    fprintf(stderr, ": ");
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\n");
    abort();
}

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
    running_ = &t;
    if (_setjmp(scheduler_) == 0) {
        if (t.started) _longjmp(t.here, 1);
        t.started = true;
        ucontext_t context;
        getcontext(&context);
        context.uc_stack.ss_sp = t.stack.get() + sizeof(StackBottom);
        context.uc_stack.ss_size = kStackBytes - sizeof(StackBottom);
        context.uc_link = nullptr;
        makecontext(&context, &Multiprocessor::start, 0);
        setcontext(&context);
    }
    running_ = nullptr;
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
        const std::function<void(Multiprocessor&)> errand = std::move(errands_[i]);
        errands_.erase(errands_.begin() + static_cast<long>(i));
        errand(*this);
    }
}

void Multiprocessor::run(const Launch& launch, Dim first_block) {
    launch_ = &launch;
    first_block_ = first_block;
    dice_.seed(static_cast<unsigned>(launch.seed + first_block.x + 977 * first_block.y + 104729 * first_block.z) * 2 + 1);
    dice_.discard(8);
    early_ = dice_() & 64;
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
            if (!t.stack) t.stack = {static_cast<char*>(std::aligned_alloc(kStackBytes, kStackBytes)), std::free};  // touched as far as it is used
            if (!t.stack) fail("no memory for a thread's stack");
            const StackBottom bottom{&t, kUntouched};
            memcpy(t.stack.get(), &bottom, sizeof bottom);
            t.machine = this;
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
    for (size_t i = 0; i < count; i++) {
        StackBottom bottom;
        memcpy(&bottom, threads_[i].stack.get(), sizeof bottom);
        if (bottom.canary != kUntouched) running_ = &threads_[i], fail("the stack of %zu bytes was too small", static_cast<size_t>(kStackBytes));
        if (!threads_[i].stores.empty()) running_ = &threads_[i], fail("the block has ended while the copy engine's stores may still read its shared memory");
    }
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

const uint64_t* Multiprocessor::meet_warp(uint64_t brought) {
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

void Multiprocessor::arrive(NamedBarrier& b, int threads) {
    if (b.arrived && b.expected != threads) fail("one barrier of %d threads, and of %d", b.expected, threads);
    b.expected = threads;
    if (++b.arrived == threads) b.arrived = 0, b.rounds++;
}

void Multiprocessor::sync(NamedBarrier& b, int threads, const char* what) {
    const uint64_t before = b.rounds;
    arrive(b, threads);
    wait({round_is_over, &b.rounds, before, what});
}

NamedBarrier& Multiprocessor::named(int id, int threads) {
    if (id < 0 || id >= kNamedBarriers || threads % kWarp) fail("named barrier %d of %d threads", id, threads);
    return block().named[id];
}

void Multiprocessor::arrive_named(int id, int threads) { arrive(named(id, threads), threads); }
void Multiprocessor::sync_named(int id, int threads) { sync(named(id, threads), threads, "a barrier of the block"); }

void Multiprocessor::arrive_cluster() {
    me().cluster_round = cluster_barrier_.rounds;
    arrive(cluster_barrier_, launch_->threads * launch_->cluster);
}

void Multiprocessor::wait_cluster() { wait({round_is_over, &cluster_barrier_.rounds, me().cluster_round, "the cluster"}); }

void Multiprocessor::later(std::function<void(Multiprocessor&)> errand) {
    if (early_)
        errand(*this);
    else
        errands_.push_back(std::move(errand));
}

// ---- products of a warpgroup

void Multiprocessor::finish_products(size_t count) {
    const int group = group_of(me()), rank = me().rank;
    const Thread* first = &threads_[static_cast<size_t>(rank * launch_->threads + group * kGroup)];
    wait({products_issued, first, count, "the warpgroup's other warps to issue their products"});
    for (size_t& done = blocks_[rank].products_done[group]; done < count;) done = run_products(done, count, rank, group);
}

namespace {

constexpr int kPiece = 8;  // 16-bit values in 16 bytes, which swizzling leaves together

// Eight values of an operand whose rows of 128 bytes are swizzled, from (row of the tile, column) on.
void read_piece(float (&to)[kPiece], const char* shared, uint64_t descriptor, int row, int column, bool is_bf16) {
    // Blocks of 64 columns lie `next` bytes apart.
    const uint32_t base = static_cast<uint32_t>(descriptor), next = static_cast<uint32_t>(descriptor >> 32);
    const uint32_t at = base + static_cast<uint32_t>(row) * 128 + static_cast<uint32_t>(column % 64) * 2 + static_cast<uint32_t>(column / 64) * next;
    uint16_t bits[kPiece];
    memcpy(bits, shared + swizzle_128(at), sizeof bits);
    for (int i = 0; i < kPiece; i++) to[i] = widen(bits[i], is_bf16);
}

// The operand as [16 of K][count of the other].
template <int N>
void read_operand(float (&to)[16][N], const char* shared, uint64_t descriptor, int count, bool rows_are_k, bool is_bf16) {
    float piece[kPiece];
    for (int row = 0; row < (rows_are_k ? 16 : count); row++)
        for (int column = 0; column < (rows_are_k ? count : 16); column += kPiece) {
            read_piece(piece, shared, descriptor, row, column, is_bf16);
            for (int i = 0; i < kPiece; i++) (rows_are_k ? to[row][column + i] : to[column + i][row]) = piece[i];
        }
}

template <int N>
void multiply(float (&d)[64][128], const float (&a)[16][64], const float (&b)[16][128]) {
    for (int m = 0; m < 64; m++)
        for (int k = 0; k < 16; k++)
            for (int n = 0; n < N; n++) d[m][n] += a[k][m] * b[k][n];
}

}  // namespace

// Those from `first` on that add to the same accumulators; returns the one behind them.
size_t Multiprocessor::run_products(size_t first, size_t end, int rank, int group) {
    Thread* threads = &threads_[static_cast<size_t>(rank * launch_->threads + group * kGroup)];
    const char* shared = blocks_[rank].shared;
    static thread_local float a[16][64], b[16][128], d[64][128];
    const auto each_value = [&](size_t index, const auto& visit) {  // visit(of a thread, in the tile)
        for (int t = 0; t < kGroup; t++) {
            const Product& y = threads[t].products[index];
            const int row = 16 * (t / kWarp) + t % kWarp / 4, column = 2 * (t % 4);
            for (int i = 0; i < y.n / 2; i++) visit(y.d[i], d[row + 8 * (i >> 1 & 1)][8 * (i / 4) + column + (i & 1)]);
        }
    };
    if (threads[0].products[first].add)
        each_value(first, [](float mine, float& in_tile) { in_tile = mine; });
    else
        memset(d, 0, sizeof d);
    size_t index = first;
    do {
        const Product& x = threads[0].products[index];
        read_operand(b, shared, x.b, x.n, x.b_columns, x.is_bf16);
        if (!x.a_in_registers) read_operand(a, shared, x.a, 64, x.a_transposed, x.is_bf16);
        for (int t = 0; t < kGroup; t++) {
            const Product& y = threads[t].products[index];
            if (y.b != x.b || y.n != x.n || y.add != x.add || y.a_in_registers != x.a_in_registers || (!x.a_in_registers && y.a != x.a))
                running_ = &threads[t], fail("the threads of a warpgroup disagree about product %zu", index);
            const int row = 16 * (t / kWarp) + t % kWarp / 4, column = 2 * (t % 4);
            for (int r = 0; r < 4 && x.a_in_registers; r++)
                for (int e = 0; e < 2; e++)
                    a[column + 8 * (r >> 1) + e][row + 8 * (r & 1)] = widen(static_cast<uint16_t>(y.a_registers[r] >> (16 * e)), x.is_bf16);
        }
        x.n == 64 ? multiply<64>(d, a, b) : multiply<128>(d, a, b);
        index++;
    } while (index < end && threads[0].products[index].add && threads[0].products[index].d == threads[0].products[first].d &&
             threads[0].products[index].n == threads[0].products[first].n);
    each_value(first, [](float& mine, float in_tile) { mine = in_tile; });
    return index;
}

}  // namespace emulated
