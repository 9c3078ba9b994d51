// One thread's tile of tokens of one row and value head: rows staged as f32, coefficients of its mini-chunks, and the working state. Used by
// the forward and by the backward's recomputing.
#pragma once
#include "fast_states.h"
#include "gates.h"
#include "heads.h"

namespace fqla::cpu {

// Results below 1e-38 are flushed to zero while this lives: strong gates decay a state through the denormals, where x86 takes a hundred times
// longer. Float path only.
class FlushDenormals {
public:
    FlushDenormals();
    ~FlushDenormals();
    FlushDenormals(const FlushDenormals&) = delete;
    FlushDenormals& operator=(const FlushDenormals&) = delete;

private:
    uint64_t before_;
};

// Tokens [begin, begin + count) of a head as f32 rows kRowStride apart, columns [first, first + dim); rows from count to `staged` are zeros.
void stage_rows(const View& x, const RowPlace& row, int64_t begin, int count, int staged, int64_t head, int first, int dim, float* to);

struct TileMemory {
    alignas(64) float keys[kMiniTokens + kTileTokens][kRowStride];  // the first rows: the mini-chunk before the tile
    alignas(64) float queries[kTileTokens][kRowStride];
    alignas(64) float values[kTileTokens][kRowStride];
    alignas(64) float pending[kMiniTokens][kRowStride];
    alignas(64) float staging[kPad][kRowStride];
    MiniDots dots[kTileTokens / kMiniTokens];
    MiniChunk mini[kTileTokens];

    float* first_key() { return keys[kMiniTokens]; }
};

// A value head's tokens on their way through the state.
class HeadTiles {
public:
    HeadTiles(const Form& form, const Inputs& in, const RowPlace& row, int64_t h, const Columns& columns, TileMemory& memory, float* state,
              int64_t state_stride);

    // Tokens [begin, begin + count), count <= kTileTokens, in mini-chunks of 4: v is replaced by o in memory.values.
    void run(int64_t begin, int count);
    void run_single(int64_t begin);          // one token
    void advance(int64_t begin, int count);  // the state alone
    // One token whose state goes from memory to memory; columns and K are multiples of kDecodeStep.
    void decode(int64_t token, const StateView& from, const StateView& to);
    void flush();  // brings the state up to date

private:
    typedef void (*TileKernel)(const Tile&);
    void stage(int64_t begin, int count, int staged, bool outputs);
    void coefficients(int64_t begin, int count, int mini_tokens);
    void run_kernel(TileKernel kernel, int minis, int mini_tokens);

    const Kernels& kernels_;
    const Form& form_;
    const Inputs& in_;
    const RowPlace& row_;
    const int64_t h_;
    const Columns columns_;
    const HeadGates<float> gates_;
    TileMemory& m_;
    float* const state_;
    const int64_t state_stride_;
    float pending_decay_ = 1;
    int pending_tokens_ = 0;  // tokens a mini-chunk of what is pending; 0: nothing
};

}  // namespace fqla::cpu
