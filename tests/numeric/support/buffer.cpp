#include "buffer.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "random.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace numeric {

Buffer::Buffer(size_t bytes, uint64_t seed, bool bare) : base_(nullptr), bytes_(bytes), bare_(bare), host_((bare ? 0 : bytes) + 2 * kGuard, uint8_t{0xFF}) {
    Random random(seed);
    for (size_t i = 0; seed && !bare && i + 8 <= bytes; i += 8) {
        const uint64_t bits = random.bits();
        std::memcpy(host() + i, &bits, 8);
    }
    base_ = static_cast<uint8_t*>(fqla_dev_alloc(&session().device, bytes + 2 * kGuard));
    if (!base_) {
        std::fprintf(stderr, "%zu bytes of device memory: %s\n", bytes, fqla_dev_error(&session().device));
        std::abort();
    }
    upload();
}

Buffer::~Buffer() {
    guard(false);
    fqla_dev_free(&session().device, base_);
}

template <class Copy>
void Buffer::copy(const Copy& part) const {
    guard(false);
    const bool failed = bare_ ? part(size_t{0}, size_t{0}, kGuard) || part(kGuard + bytes_, kGuard, kGuard) : part(size_t{0}, size_t{0}, host_.size());
    if (failed) std::fprintf(stderr, "%s\n", fqla_dev_error(&session().device));
    guard(true);
}

void Buffer::upload() {
    copy([&](size_t to, size_t from, size_t bytes) { return fqla_dev_upload(&session().device, base_ + to, host_.data() + from, bytes); });
}

const uint8_t* Buffer::download(bool& guards_kept) {
    after_.resize(host_.size());
    copy([&](size_t from, size_t to, size_t bytes) { return fqla_dev_download(&session().device, after_.data() + to, base_ + from, bytes); });
    const size_t last = host_.size() - kGuard;
    guards_kept = !std::memcmp(after_.data(), host_.data(), kGuard) && !std::memcmp(after_.data() + last, host_.data() + last, kGuard);
    return downloaded();
}

void Buffer::guard(bool on) const {
#if defined(__SANITIZE_ADDRESS__)
    if (session().cuda()) return;
    if (on) {
        __asan_poison_memory_region(base_, kGuard);
        __asan_poison_memory_region(base_ + kGuard + bytes_, kGuard);
    } else {
        __asan_unpoison_memory_region(base_, bytes_ + 2 * kGuard);
    }
#else
    (void)on;
#endif
}

}  // namespace numeric
