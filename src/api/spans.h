// Memory that a call's tensors cover, and which of them may meet.
#pragma once
#include <cstdint>

namespace fqla {

struct Span {
    const char* name;
    uintptr_t begin, end;
    // Per-token views that interleave in one packed row do not meet although their spans do: token stride and the bytes used of it.
    uint64_t token_bytes, used_bytes;

    static Span plain(const char* name, const void* data, int64_t bytes) {
        const auto begin = reinterpret_cast<uintptr_t>(data);
        return {name, begin, begin + static_cast<uintptr_t>(bytes), 0, 0};
    }
    // False when the far end is no address.
    bool measure(const char* name, const void* data, int64_t element_bytes, int64_t rows, int64_t row, int64_t tokens, int64_t token, int64_t heads,
                 int64_t head, int64_t dim);
    bool meets(const Span& other) const;
};

class SpanSet {
public:
    bool add(const Span& span, bool output);
    // The one pair that may be the same memory: states in place.
    void allow_same(const char* a, const char* b, bool allowed) { same_a_ = a, same_b_ = b, same_ = allowed; }
    // INVALID_ARGUMENT when an output meets anything else.
    int32_t check() const;

private:
    static constexpr int kMax = 32;
    Span spans_[kMax];
    bool output_[kMax];
    int count_ = 0;
    const char *same_a_ = nullptr, *same_b_ = nullptr;
    bool same_ = false;
};

}  // namespace fqla
