// kernels/ptx/async_copy.cuh on the CPU.
#pragma once
#include "cuda_words.h"

namespace fqla {

inline void copy_16_bytes_or_zeros_async(void* shared, const void* global, bool exists) {
    const auto copy = [=] {
        if (exists)
            memcpy(shared, global, 16);
        else
            memset(shared, 0, 16);
    };
    if (emulated::machine().early())
        copy();
    else
        emulated::me().copies.push_back({copy, -1});
}
inline void copy_16_bytes_async(void* shared, const void* global) { copy_16_bytes_or_zeros_async(shared, global, true); }
inline void commit_copies() { emulated::close_group(emulated::me().copies, emulated::me().copy_groups); }
template <int kPending>
void wait_copies() {
    emulated::finish_groups(emulated::me().copies, emulated::me().copy_groups - kPending);
}
inline void wait_all_copies() {
    commit_copies();
    wait_copies<0>();
}

}  // namespace fqla
