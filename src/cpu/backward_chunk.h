// One chunk of the f32 backward: plain arrays that the kernels work on.
//
// S is the state before the chunk, D = dL/d(state after it). With E_i the decay from the chunk's start to token i, R_i from i to its end and
// G_ij from j to i (0 for j > i):
//
//     e   = V - E (K S) - strict(G o K K^T) U,  U = beta e         solved row by row
//     P   = G o Q K^T
//     dU  = scale P^T dO + R (K D)
//     dX  = dU - strict(beta G o K K^T)^T dX                       solved row by row, last first
//     dV  = beta dX,  dY = -E dV,  dbeta_i = dX_i . e_i
//     dP  = scale tril(dO U^T),  dL = -strict(dX U^T)
//     F   = G o dP,  B = beta G o dL
//     dQ  = scale E (dO S^T) + F K
//     dK  = dY S^T + R (U D^T) + F^T Q + (B + B^T) K
//     D  <- E_last D + K^T dY + scale (E Q)^T dO
//
// and the gate's gradient adds exactly the terms that g_t scales, so that nothing cancels:
//
//     Z = strict(dP o P + dL o beta (G o K K^T)),  plus_i = scale E_i (dO S^T)_i.q_i + (dY S^T)_i.k_i,  minus_i = R_i (U D^T)_i.k_i
//     dg_t = sum_{i>=t} plus_i + sum_{i<t} minus_i + E_last <S, D> + sum_{i>=t>j} Z_ij
#pragma once
#include "kernels.h"

namespace fqla::cpu {

typedef float ChunkRows[kTileTokens][kRowStride];
typedef float ChunkSquare[kTileTokens][kTileTokens];  // [i][j]

struct ChunkMemory {
    // of the key head: staged, normalised; zero rows past `count`
    alignas(64) ChunkRows q, k;
    float q_factor[kTileTokens], k_factor[kTileTokens];
    alignas(64) float k_transposed[kMaxDim][kTileTokens];
    ChunkSquare kk, qk;
    ChunkRows dq, dk;  // sums over value heads

    // of the value head: in
    alignas(64) ChunkRows v, d_out;
    float decay[kTileTokens], beta[kTileTokens];
    // out
    ChunkRows dv;
    float d_log_gate[kTileTokens], d_beta[kTileTokens];

    // on the way
    float from_start[kTileTokens], to_end[kTileTokens];  // E, R
    float plus[kTileTokens], minus[kTileTokens];
    alignas(64) ChunkSquare span, solve, p, dp, dl, f, b;  // G, beta G o K K^T, scale P, ...
    ChunkRows e, u, dx, dy, scaled_out, product;
    alignas(64) float u_transposed[kMaxDim][kTileTokens];
    alignas(64) float state_transposed[kMaxDim][kRowStride], gradient_transposed[kMaxDim][kRowStride];
};

struct ChunkHead {
    int count;  // tokens
    int key_dim, value_dim;
    float scale;
    const float* state;  // S
    float* gradient;     // D, in and out
    int64_t stride;      // of both
};

}  // namespace fqla::cpu
