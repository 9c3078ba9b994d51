// kernels/ptx/registers.cuh on the CPU, where registers are the compiler's.
#pragma once
#include "cuda_words.h"

namespace fqla {

inline int32_t of_lane(int32_t x) { return x; }

}  // namespace fqla

namespace fqla::sm90 {

inline int fresh_thread() { return static_cast<int>(threadIdx.x); }
inline void opaque(int&) {}
inline uint32_t fresh_zero() { return 0; }
template <class T, int N>
void pin(T (&)[N]) {}
template <int N>
void take_registers() {}
template <int N>
void give_registers() {}

}  // namespace fqla::sm90
