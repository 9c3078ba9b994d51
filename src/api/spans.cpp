#include "spans.h"

#include <cstring>

#include "status.h"

namespace fqla {

bool Span::measure(const char* span_name, const void* data, int64_t element_bytes, int64_t rows, int64_t row, int64_t tokens, int64_t token, int64_t heads,
                   int64_t head, int64_t dim) {
    int64_t a = 0, b = 0, c = 0, last = 0;
    if (__builtin_mul_overflow(rows - 1, row, &a) || __builtin_mul_overflow(tokens - 1, token, &b) || __builtin_mul_overflow(heads - 1, head, &c) ||
        __builtin_add_overflow(a, b, &last) || __builtin_add_overflow(last, c, &last) || __builtin_add_overflow(last, dim, &last) ||
        __builtin_mul_overflow(last, element_bytes, &last))
        return false;
    name = span_name;
    begin = reinterpret_cast<uintptr_t>(data);
    if (__builtin_add_overflow(begin, static_cast<uintptr_t>(last), &end)) return false;
    // Of rows of one token (decode) the row stride leads from token to token.
    const int64_t step = tokens == 1 ? row : token;
    const bool rows_keep_phase = rows == 1 || tokens == 1 || (token > 0 && row % token == 0);
    used_bytes = static_cast<uint64_t>((c + dim) * element_bytes);
    token_bytes = rows_keep_phase ? static_cast<uint64_t>(step * element_bytes) : 0;
    if (used_bytes > token_bytes) token_bytes = 0;
    return true;
}

bool Span::meets(const Span& other) const {
    if (end <= other.begin || other.end <= begin) return false;
    if (!token_bytes || token_bytes != other.token_bytes) return true;
    // Where `other` begins within this one's token stride.
    const uint64_t from = other.begin >= begin ? (other.begin - begin) % token_bytes : (token_bytes - (begin - other.begin) % token_bytes) % token_bytes;
    return !(from >= used_bytes && from + other.used_bytes <= token_bytes);
}

bool SpanSet::add(const Span& span, bool output) {
    if (count_ == kMax) return false;
    spans_[count_] = span;
    output_[count_++] = output;
    return true;
}

int32_t SpanSet::check() const {
    for (int i = 0; i < count_; i++)
        for (int j = i + 1; j < count_; j++) {
            if (!output_[i] && !output_[j]) continue;
            if (!spans_[i].meets(spans_[j])) continue;
            const auto is = [&](int at, const char* name) { return name && !strcmp(spans_[at].name, name); };
            if (same_ && ((is(i, same_a_) && is(j, same_b_)) || (is(i, same_b_) && is(j, same_a_)))) continue;
            const int out = output_[j] ? j : i, in = output_[j] ? i : j;
            return fail(FLASHQLA_STATUS_INVALID_ARGUMENT, "%s at [%p, %p) overlaps %s at [%p, %p): an output may overlap nothing but the state in place",
                        spans_[out].name, reinterpret_cast<void*>(spans_[out].begin), reinterpret_cast<void*>(spans_[out].end), spans_[in].name,
                        reinterpret_cast<void*>(spans_[in].begin), reinterpret_cast<void*>(spans_[in].end));
        }
    return FLASHQLA_STATUS_OK;
}

}  // namespace fqla
