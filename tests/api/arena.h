// One block of memory that holds every array of a call, each between guard bands, so that a test can ask what a call has written at all.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <new>
#include <vector>

class Arena {
public:
    explicit Arena(size_t bytes) : bytes_(bytes), data_(static_cast<unsigned char*>(std::aligned_alloc(kAlign, bytes))) {
        if (!data_) throw std::bad_alloc();
        std::memset(data_, kPoison, bytes);
    }
    ~Arena() { std::free(data_); }
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;

    // `count` poisoned elements at a multiple of 256 bytes, poison around them.
    template <class T>
    T* take(size_t count) {
        const size_t at = used_, span = count * sizeof(T);
        used_ += (span + kGuard + kAlign - 1) / kAlign * kAlign;
        if (used_ > bytes_) throw std::bad_alloc();
        parts_.push_back({at, span});
        return reinterpret_cast<T*>(data_ + at);
    }

    void remember() { before_.assign(data_, data_ + bytes_); }

    // Nothing has changed since remember() but inside the arrays that begin at these pointers.
    bool unchanged_but(std::initializer_list<const void*> written) const {
        std::vector<unsigned char> now(data_, data_ + bytes_);
        for (const void* p : written)
            for (const Part& part : parts_)
                if (data_ + part.at == p) std::memcpy(now.data() + part.at, before_.data() + part.at, part.span);
        return now == before_;
    }
    bool unchanged() const { return unchanged_but({}); }

    static constexpr unsigned char kPoison = 0xA5;

private:
    static constexpr size_t kAlign = 256, kGuard = 64;
    struct Part {
        size_t at, span;
    };
    size_t bytes_, used_ = kAlign;
    unsigned char* data_;
    std::vector<Part> parts_;
    std::vector<unsigned char> before_;
};
