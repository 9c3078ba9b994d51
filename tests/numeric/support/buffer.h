// Device memory between guard bands, with a copy on the host of what was put there.
#pragma once
#include <cstdint>
#include <vector>

#include "session.h"

namespace numeric {

class Buffer {
public:
    static constexpr size_t kGuard = 16384;  // each side; 0xFF: NaN in every float type, -1 in every integer

    // `seed` 0: 0xFF everywhere; else random bytes. `bare`: the device's memory between the bands is neither set nor read.
    Buffer(size_t bytes, uint64_t seed, bool bare = false);
    ~Buffer();
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    uint8_t* data() const { return base_ + kGuard; }  // on the device, aligned to 256
    size_t bytes() const { return bytes_; }
    bool bare() const { return bare_; }                // then what follows holds the bands alone
    uint8_t* host() { return host_.data() + kGuard; }  // to be filled, then uploaded
    void upload();
    // What is on the device now; `guards_kept` tells whether the bands are as they were.
    const uint8_t* download(bool& guards_kept);
    const uint8_t* downloaded() const { return after_.data() + kGuard; }

private:
    template <class Copy>
    void copy(const Copy& part) const;  // part(device offset, host offset, bytes) for all that is copied
    void guard(bool on) const;          // under ASan the host's bands may not even be read

    uint8_t* base_;
    size_t bytes_;
    bool bare_;
    std::vector<uint8_t> host_, after_;
};

}  // namespace numeric
