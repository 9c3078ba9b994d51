#include "tile.h"

#include <algorithm>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace fqla::cpu {

#if defined(__x86_64__)
constexpr unsigned kFlushToZeroAndDenormalsAreZero = 0x8040;
FlushDenormals::FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(static_cast<unsigned>(before_) | kFlushToZeroAndDenormalsAreZero); }
FlushDenormals::~FlushDenormals() { _mm_setcsr(static_cast<unsigned>(before_)); }
#elif defined(__aarch64__)
constexpr uint64_t kFlushToZero = 1ull << 24;
FlushDenormals::FlushDenormals() {
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(before_));
    __asm__ __volatile__("msr fpcr, %0" : : "r"(before_ | kFlushToZero));
}
FlushDenormals::~FlushDenormals() { __asm__ __volatile__("msr fpcr, %0" : : "r"(before_)); }
#else
FlushDenormals::FlushDenormals() : before_(0) {}
FlushDenormals::~FlushDenormals() {}
#endif

HeadTiles::HeadTiles(const Form& form, const Inputs& in, const RowPlace& row, int64_t h, const Columns& columns, TileMemory& memory, float* state,
                     int64_t state_stride)
    : kernels_(kernels()),
      form_(form),
      in_(in),
      row_(row),
      h_(h),
      columns_(columns),
      gates_(form, in, row.n, row.tokens, h),
      m_(memory),
      state_(state),
      state_stride_(state_stride) {}

void stage_rows(const View& x, const RowPlace& row, int64_t begin, int count, int staged, int64_t head, int first, int dim, float* to) {
    kernels().load_rows(element_at(x.data, x.dtype, offset_of(x, row, begin, head) + first), x.dtype, x.token, count, dim, to, kRowStride);
    for (int t = count; t < staged; t++) std::fill_n(to + t * kRowStride, kRowStride, 0.0f);
}

void HeadTiles::stage(int64_t begin, int count, int staged, bool outputs) {
    const int64_t hk = key_head_of(form_, static_cast<int32_t>(h_));
    const float* queries = outputs ? m_.queries[0] : m_.first_key();
    const auto stage_key = [&](const View& x, float* to) {
        stage_rows(x, row_, begin, count, staged, hk, 0, form_.key_dim, to);
        if (form_.qk_norm == FLASHQLA_NORM_L2) kernels_.normalise(to, count, form_.key_dim, static_cast<float>(form_.eps), nullptr);
    };
    stage_key(in_.k, m_.first_key());
    if (outputs) stage_key(in_.q, m_.queries[0]);
    stage_rows(in_.v, row_, begin, count, staged, h_, columns_.begin, columns_.count, m_.values[0]);
    kernels_.dots(m_.first_key(), queries, form_.key_dim, (staged + kMiniTokens - 1) / kMiniTokens, m_.dots);
}

// See kernels.h. D_tj is built up from decay to decay, so every factor is a product of exp(g), never a quotient.
void HeadTiles::coefficients(int64_t begin, int count, int mini_tokens) {
    const float scale = static_cast<float>(form_.scale);
    for (int start = 0, m = 0; start < count; start += mini_tokens, m++) {
        MiniChunk& x = m_.mini[m];
        const MiniDots& d = m_.dots[m];
        float since[kMiniTokens];  // D_tj
        float from_start = 1;      // E_t
        for (int t = 0; t < mini_tokens; t++) {
            const bool real = start + t < count;
            const float decay = real ? gates_.gate(begin + start + t).decay : 1;
            x.beta[t] = real ? gates_.beta(begin + start + t) : 0;
            x.decay[t] = from_start *= decay;
            x.out_decay[t] = scale * from_start;
            for (int j = 0; j < t; j++) {
                since[j] *= decay;
                x.solve[t][j] = since[j] * d.kk[t][j];
                x.out[t][j] = scale * since[j] * d.qk[t][j];
            }
            since[t] = 1;
            x.out[t][t] = scale * d.qk[t][t];
        }
        std::copy_n(since, mini_tokens, x.tail);
    }
}

void HeadTiles::run_kernel(TileKernel kernel, int minis, int mini_tokens) {
    float* keys = m_.first_key();
    if (pending_tokens_ != mini_tokens) flush();  // kernels of one token and of four keep theirs apart
    if (!pending_tokens_) {                       // an update that adds nothing
        std::fill_n(keys - mini_tokens * kRowStride, mini_tokens * kRowStride, 0.0f);
        std::fill_n(m_.pending[0], mini_tokens * kRowStride, 0.0f);
        pending_decay_ = 1;
    }
    kernel(
        {form_.key_dim, columns_.padded(), minis, keys, m_.queries[0], m_.values[0], m_.mini, state_, state_stride_, {nullptr, m_.pending[0], pending_decay_}});
    std::copy_n(keys + (minis - 1) * mini_tokens * kRowStride, mini_tokens * kRowStride, keys - mini_tokens * kRowStride);
    pending_decay_ = m_.mini[minis - 1].decay[mini_tokens - 1];
    pending_tokens_ = mini_tokens;
}

void HeadTiles::run(int64_t begin, int count) {
    const int minis = (count + kMiniTokens - 1) / kMiniTokens;
    stage(begin, count, minis * kMiniTokens, true);
    coefficients(begin, count, kMiniTokens);
    run_kernel(kernels_.run_tile, minis, kMiniTokens);
}

void HeadTiles::run_single(int64_t begin) {
    stage(begin, 1, kMiniTokens, true);
    coefficients(begin, 1, 1);
    run_kernel(kernels_.run_tile_single, 1, 1);
}

void HeadTiles::advance(int64_t begin, int count) {
    const int minis = (count + kMiniTokens - 1) / kMiniTokens;
    stage(begin, count, minis * kMiniTokens, false);
    coefficients(begin, count, kMiniTokens);
    run_kernel(kernels_.advance_tile, minis, kMiniTokens);
}

void HeadTiles::decode(int64_t token, const StateView& from, const StateView& to) {
    stage(token, 1, kMiniTokens, true);
    coefficients(token, 1, 1);
    const bool kv = form_.state_layout == FLASHQLA_STATE_KV;
    const auto first = [&](const StateView& s) { return s.data ? element_at(s.data, s.dtype, s.offset + columns_.begin * s.value) : nullptr; };
    (kv ? kernels_.decode_kv : kernels_.decode_vk)(
        {form_.key_dim, columns_.count, m_.first_key(), m_.queries[0], m_.values[0], m_.mini, first(from), first(to), from.dtype, kv ? from.key : from.value});
}

void HeadTiles::flush() {
    if (!pending_tokens_) return;
    kernels_.flush({m_.first_key() - pending_tokens_ * kRowStride, m_.pending[0], pending_decay_}, pending_tokens_, form_.key_dim, columns_.padded(), state_,
                   state_stride_);
    pending_tokens_ = 0;
}

}  // namespace fqla::cpu
