// Text that is built into a caller's buffer of any size, counting what all of it needs.
#pragma once
#include <cstdarg>
#include <cstddef>
#include <cstdio>

namespace fqla {

class TextWriter {
public:
    TextWriter(char* text, size_t capacity) : text_(text), capacity_(capacity) {
        if (capacity_) text_[0] = 0;
    }
#if defined(__GNUC__)
    __attribute__((format(printf, 2, 3)))
#endif
    void
    print(const char* format, ...) {
        va_list args;
        va_start(args, format);
        const size_t room = length_ < capacity_ ? capacity_ - length_ : 0;
        const int n = vsnprintf(room ? text_ + length_ : nullptr, room, format, args);
        va_end(args);
        if (n > 0) length_ += static_cast<size_t>(n);
    }
    size_t needed() const { return length_ + 1; }

private:
    char* text_;
    size_t capacity_;
    size_t length_ = 0;
};

}  // namespace fqla
