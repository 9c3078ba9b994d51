// kernels/ptx/global.cuh on the CPU.
#pragma once
#include "cuda_words.h"

namespace fqla {

inline void prefetch_to_l2(const void*) {}
inline uint32_t load_word_if(bool wanted, const void* at, uint32_t otherwise) {
    if (wanted) memcpy(&otherwise, at, 4);
    return otherwise;
}
inline uint32_t load_element(bool wide, const void* at) {
    uint32_t x = 0;
    memcpy(&x, at, wide ? 4 : 2);
    return x;
}
template <size_t N>
void load_with_line(uint32_t (&word)[N], const void* from) {
    memcpy(word, from, sizeof word);
}

}  // namespace fqla
