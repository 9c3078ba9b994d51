// The portable backward: every size up to 256, every form, every gradient, in f32, on every card. Per segment of chunks, the last one first:
//   gdn_backward_scan_*    both recurrences, split over V: e, du, dv, and S and D at the chunks' borders (backward_scan.cuh)
//   gdn_backward_chunks    all that sums over V, every chunk and value head at once: dq and dk per value head, d_gate, d_beta (backward_chunk.cuh)
//   gdn_backward_heads     dq, dk over value heads and through the norm (backward_finish.cuh)
// Before, with several segments, one scan finds the states at their starts; after, gdn_backward_sums adds up dA_log and ddt_bias.
#include "backward_chunk.cuh"
#include "backward_finish.cuh"
#include "backward_scan.cuh"

extern "C" __global__ void __launch_bounds__(fqla::kScanWarps* fqla::kWarp, 3) gdn_backward_scan_128(const __grid_constant__ fqla::BackwardParams p) {
    fqla::scan_kernel<fqla::ScanConfig<128, 2>>(p);
}

extern "C" __global__ void __launch_bounds__(fqla::kScanWarps* fqla::kWarp, 2) gdn_backward_scan_256(const __grid_constant__ fqla::BackwardParams p) {
    fqla::scan_kernel<fqla::ScanConfig<256, 2>>(p);
}

extern "C" __global__ void __launch_bounds__(fqla::kChunkThreads, 2) gdn_backward_chunks(const __grid_constant__ fqla::BackwardParams p) {
    __shared__ fqla::ChunkShared shared;
    fqla::chunk_kernel(p, shared);
}

extern "C" __global__ void __launch_bounds__(fqla::kFinishThreads, 2) gdn_backward_heads(const __grid_constant__ fqla::BackwardParams p) {
    fqla::heads_kernel(p);
}

extern "C" __global__ void __launch_bounds__(fqla::kFinishThreads) gdn_backward_sums(const __grid_constant__ fqla::BackwardParams p) {
    __shared__ float shared[2][fqla::kFinishThreads];
    fqla::sums_kernel(p, shared);
}
