// Forward calls that mix a few long rows with many short ones (prefill beside decode): the recurrent kernel serves rows of few tokens, behind it a chunk engine
// the others, since that would spend a chunk's time on each token of decode. Offsets are on the device, so kernels find their rows themselves, and any lengths
// are served whatever is reckoned with here.
#pragma once
#include <algorithm>

#include "problem.h"

namespace fqla {

// A row of so many tokens takes the recurrent kernel about as long as a (row, head) pair and its one chunk take the fused one: see cost.cpp.
constexpr int32_t kShortTokens = 16;

// Beside the longest row others have fewer tokens than this, on average, and than this part of its: most must then be short, and where the guess below
// is wrong, little is lost.
constexpr int64_t kMixedTokens = 256, kMixedPart = 8;

// Whether most rows must be much shorter than the longest, in a call whose rows need not all have one engine.
inline bool may_split(const Request& r) {
    const Bounds& b = r.bounds;
    if (r.op != FLASHQLA_OP_FORWARD || r.problem.engine != FLASHQLA_ENGINE_AUTO || (r.problem.flags & FLASHQLA_PROBLEM_BATCH_INVARIANT)) return false;
    if (r.saved || r.state.token_states || !b.offsets || b.rows < 2) return false;
    if (b.max_tokens <= kShortTokens || b.max_tokens >= b.tokens) return false;  // tokens: the longest row is not known
    return (b.tokens - b.max_tokens) / (b.rows - 1) < std::min(kMixedTokens, b.max_tokens / kMixedPart);
}

// The longer rows of a request that may_split: reckoned with as rows of max_tokens beside rows of one token.
inline Request long_part(Request r) {
    const int64_t more = r.bounds.max_tokens - 1;
    r.long_rows = std::max<int64_t>(1, (r.bounds.tokens - r.bounds.rows + more / 2) / more);
    return r;
}

// The others: all rows, each with its share of the tokens that are left.
inline Request short_part(Request r) {
    const int64_t longer = long_part(r).long_rows, rows = std::max<int64_t>(1, r.bounds.rows - longer);
    const int64_t left = std::max<int64_t>(0, r.bounds.tokens - longer * r.bounds.max_tokens);
    r.bounds.max_tokens = std::clamp<int64_t>((left + rows - 1) / rows, 1, kShortTokens);
    r.bounds.tokens = r.bounds.rows * r.bounds.max_tokens;
    return r;
}

}  // namespace fqla
