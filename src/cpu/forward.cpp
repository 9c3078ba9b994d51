// The forward in f32: a task is a row, a value head and a range of its columns.
#include <algorithm>

#include "cpu.h"
#include "oracle.h"
#include "thread_pool.h"
#include "tile.h"

namespace fqla::cpu {
namespace {

struct Scratch {
    TileMemory tile;
    alignas(64) float state[kMaxDim * kRowStride];
};
static_assert(sizeof(Scratch) <= ThreadPool::kScratchBytes, "per-thread memory of the pool");

class HeadForward {
public:
    HeadForward(const Forward& call, const RowPlace& row, int64_t h, const Columns& columns, Scratch& s)
        : call_(call),
          row_(row),
          h_(h),
          columns_(columns),
          s_(s),
          stride_(columns.padded() + kRowStride - kMaxDim),
          tiles_(call.form, call.in, row, h, columns, s.tile, s.state, stride_) {}

    void run() {
        const StateView start = slot_state(call_.form, call_.state.read, row_.slots.read, h_);
        if (decodes()) {
            tiles_.decode(0, start, slot_state(call_.form, call_.state.write, row_.slots.write, h_));
            store_outputs(0, 1);
            return;
        }
        if (verifies()) {
            run_from_slot_to_slot(start);
            return;
        }
        load_columns(kernels(), call_.form, start, columns_, s_.state, stride_, s_.tile.staging[0]);
        const int64_t length = row_.tokens.length, single = std::min(length, call_.state.token_width);
        int64_t t = 0;
        for (; t < single; t++) {  // the state of each token is wanted
            tiles_.run_single(t);
            store_outputs(t, 1);
            store_state_at(token_slot(call_.state, row_.n, t));
            store_state_at(checkpoint_slot(call_.state, row_.n, t + 1));
        }
        while (t < length) {
            const int count = static_cast<int>(std::min({int64_t{kTileTokens}, length - t, until_checkpoint(t)}));
            tiles_.run(t, count);
            store_outputs(t, count);
            t += count;
            store_state_at(checkpoint_slot(call_.state, row_.n, t));
        }
        store_state_at(row_.slots.write);
    }

private:
    // One token, one state in, at most one out. (A checkpoint's interval is 64 or more.)
    bool decodes() const { return row_.tokens.length == 1 && call_.state.token_width == 0 && decodes_tokens(); }

    bool decodes_tokens() const { return row_.slots.read != kNoSlot && call_.form.key_dim % kDecodeStep == 0 && call_.form.value_dim % kDecodeStep == 0; }

    // A slot for the state after every token, in f32: what is stored there is what the next token starts from.
    bool verifies() const {
        const int64_t length = row_.tokens.length;
        if (length > call_.state.token_width || call_.form.state_dtype != FLASHQLA_DTYPE_F32 || call_.state.checkpoint_interval || !decodes_tokens())
            return false;
        for (int64_t t = 0; t < length; t++)
            if (token_slot(call_.state, row_.n, t) == kNoSlot) return false;
        return length > 0;
    }

    void run_from_slot_to_slot(StateView from) {
        for (int64_t t = 0; t < row_.tokens.length; t++) {
            const StateView to = slot_state(call_.form, call_.state.write, token_slot(call_.state, row_.n, t), h_);
            tiles_.decode(t, from, to);
            store_outputs(t, 1);
            from = to;
        }
        if (row_.slots.write == kNoSlot) return;
        load_columns(kernels(), call_.form, from, columns_, s_.state, stride_, s_.tile.staging[0]);
        store_state_at(row_.slots.write);
    }

    int64_t until_checkpoint(int64_t t) const {
        const int64_t interval = call_.state.checkpoint_interval;
        return interval ? interval - t % interval : kTileTokens;
    }

    void store_outputs(int64_t t, int count) {
        const View& out = call_.out;
        void* first = element_at(out.data, out.dtype, offset_of(out, row_, t, h_) + columns_.begin);
        kernels().store_rows(s_.tile.values[0], kRowStride, count, columns_.count, first, out.dtype, out.token);
    }

    void store_state_at(int64_t slot) {
        if (slot == kNoSlot) return;
        tiles_.flush();
        store_columns(kernels(), call_.form, s_.state, stride_, columns_, slot_state(call_.form, call_.state.write, slot, h_), s_.tile.staging[0]);
    }

    const Forward& call_;
    const RowPlace& row_;
    const int64_t h_;
    const Columns columns_;
    Scratch& s_;
    const int64_t stride_;
    HeadTiles tiles_;
};

void zero_outputs(const Forward& call, const RowPlace& row, int64_t h, const Columns& columns) {
    for (int64_t t = 0; t < row.tokens.length; t++) zero_elements(call.out, offset_of(call.out, row, t, h) + columns.begin, columns.count);
}

// Into how many ranges of columns a head is split so that every thread has work: the fewer the better, as each stages q and k for itself.
int column_ranges(const Forward& call, int threads) {
    const int64_t heads = int64_t{call.rows.count} * call.form.value_heads, most = (call.form.value_dim + kPad - 1) / kPad;
    const int64_t wanted = threads == 1 ? 1 : (2 * threads + heads - 1) / heads;
    return static_cast<int>(std::max<int64_t>(1, std::min(wanted, most)));
}

Columns column_range(int value_dim, int ranges, int index) {
    const int strips = (value_dim + kPad - 1) / kPad, begin = strips * index / ranges * kPad, end = strips * (index + 1) / ranges * kPad;
    return {begin, std::min(end, value_dim) - begin};
}

}  // namespace

void forward(ThreadPool& pool, const Forward& call, const Plan&, void*) {
    if (call.form.dtype == FLASHQLA_DTYPE_F64) return oracle_forward(pool, call);
    const int ranges = column_ranges(call, pool.threads());
    const int64_t heads = call.form.value_heads, tasks = call.rows.count * heads * ranges;
    pool.run(tasks, pool.threads(), [&](int64_t task, int thread) {
        const FlushDenormals flush;
        const RowPlace row = row_place(call.rows, call.state, task / ranges / heads);
        const int64_t h = task / ranges % heads;
        const Columns columns = column_range(call.form.value_dim, ranges, static_cast<int>(task % ranges));
        if (row.slots.skip)
            zero_outputs(call, row, h, columns);
        else
            HeadForward(call, row, h, columns, *static_cast<Scratch*>(pool.scratch(thread))).run();
    });
}

}  // namespace fqla::cpu
