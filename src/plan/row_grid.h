// The grid of kernels in which a warp has all keys of a few value columns of one row and head (kernels/common/state_tile.cuh).
#pragma once
#include <algorithm>
#include <cstdint>

#include "params.h"

namespace fqla {

struct RowGrid {
    int64_t tiles;      // blocks that share a head's columns
    int64_t warps;      // of a block
    int64_t low, high;  // row = y + low * z
};

// Calls whose states take more than this go by DRAM alone, those below by the L2 and by how evenly blocks fill the card. Both on H100,
// 2026-11-23, f32 VK states; batch 8 is 16/32 (17 MB), batch 256 is 16/64 (1.1 GB):
//   stores         streaming below: batch 8 0.0175 ms against 0.0185; as any data above: batch 256 0.7287 against 0.7324
//   warps on an SM 16 of 8 KB each below: batch 8 0.0176 against 0.0193; 8 above: batch 256 0.7191 against 0.7297
//   warps a block  2 below: batch 8 0.0169 against 0.0178; 4 above: batch 256 0.741 against 0.776 with one
constexpr int64_t kLargeStateBytes = 50ll << 20;

inline bool large_states(const Form& form, int64_t rows) { return rows > kLargeStateBytes / (state_elements(form) * element_bytes(form.state_dtype)); }

constexpr int64_t kMostGridX = 2147483647, kMostGridYZ = 65535;

// At most so many warps a block, but fewer where that leaves multiprocessors without a block.
inline RowGrid row_grid(int64_t rows, int64_t heads, int64_t value_dim, int64_t columns_of_warp, int64_t multiprocessors, int64_t most_warps) {
    const int64_t warps_per_head = (value_dim + columns_of_warp - 1) / columns_of_warp;
    int64_t warps = most_warps;
    while (warps > 1 && (rows * heads * warps_per_head / warps < multiprocessors || warps > warps_per_head)) warps /= 2;
    const int64_t low = std::min(rows, kMostGridYZ);
    return {(warps_per_head + warps - 1) / warps, warps, low, (rows + low - 1) / low};  // rows is an int32: high <= 32769
}

}  // namespace fqla
