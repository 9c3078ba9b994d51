// kernels/ptx/global.cuh on the CPU.
#pragma once
#include "cuda_words.h"

namespace fqla {

inline void prefetch_to_l2(const void*) {}
template <size_t N>
void load_with_line(uint32_t (&word)[N], const void* from) {
    memcpy(word, from, sizeof word);
}

}  // namespace fqla
