// device.hpp: device memory for C++ programs that have no CUDA of their own, over the driver opened by dlopen. Not part of the library.
//
// A negative ordinal opens the CPU: memory is then host memory, and everything is done when a call returns. A device, its buffers and its
// streams throw std::runtime_error; buffers and streams must go before their device. Link with -ldl where libc wants it.
#pragma once

#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <stdexcept>
#include <string>
#include <utility>

namespace flashqla {

class device {
public:
    explicit device(int32_t ordinal) : ordinal_(ordinal < 0 ? -1 : ordinal) {
        if (!cuda()) return;
        call<int(unsigned)>("cuInit", 0U);
        call<int(int*, int)>("cuDeviceGet", &device_, ordinal_);
        call<int(void**, int)>("cuDevicePrimaryCtxRetain", &context_, device_);
        attach();
    }
    ~device() {
        if (!context_) return;
        quietly<int(void*)>("cuCtxSetCurrent", nullptr);
        quietly<int(int)>("cuDevicePrimaryCtxRelease_v2", device_);
    }
    device(const device&) = delete;
    device& operator=(const device&) = delete;

    bool cuda() const { return ordinal_ >= 0; }
    // Makes the device's primary context current on the calling thread, which every thread that uses the device does once.
    void attach() const {
        if (cuda()) call<int(void*)>("cuCtxSetCurrent", context_);
    }
    // Waits for all work on the device.
    void synchronize() const {
        if (cuda()) call<int()>("cuCtxSynchronize");
    }

    void* allocate(size_t bytes) const {
        if (!bytes) bytes = 1;
        unsigned long long address = 0;
        void* memory = nullptr;
        if (cuda())
            call<int(unsigned long long*, size_t)>("cuMemAlloc_v2", &address, bytes);
        else if (posix_memalign(&memory, 256, bytes))
            throw std::runtime_error("out of host memory (" + std::to_string(bytes) + " bytes)");
        return cuda() ? reinterpret_cast<void*>(static_cast<uintptr_t>(address)) : memory;
    }
    void free(void* memory) const noexcept {
        if (!cuda())
            std::free(memory);
        else if (memory)
            quietly<int(unsigned long long)>("cuMemFree_v2", address_of(memory));
    }
    // Host to device and back, done on return. Neither waits for work on other streams than the default one: synchronize first.
    void upload(void* to, const void* from, size_t bytes) const {
        if (!bytes) return;
        if (!cuda()) return static_cast<void>(std::memcpy(to, from, bytes));
        call<int(unsigned long long, const void*, size_t)>("cuMemcpyHtoD_v2", address_of(to), from, bytes);
        call<int(void*)>("cuStreamSynchronize", nullptr);  // pageable memory may be on its way still
    }
    void download(void* to, const void* from, size_t bytes) const {
        if (!bytes) return;
        if (!cuda()) return static_cast<void>(std::memcpy(to, from, bytes));
        call<int(void*, unsigned long long, size_t)>("cuMemcpyDtoH_v2", to, address_of(from), bytes);
    }

    // A stream that does not wait for the default one; CPU: null.
    void* create_stream() const {
        void* stream = nullptr;
        if (cuda()) call<int(void**, unsigned)>("cuStreamCreate", &stream, 1U);
        return stream;
    }
    void synchronize(void* stream) const {
        if (cuda()) call<int(void*)>("cuStreamSynchronize", stream);
    }
    void destroy_stream(void* stream) const noexcept {
        if (stream) quietly<int(void*)>("cuStreamDestroy_v2", stream);
    }

private:
    static unsigned long long address_of(const void* memory) { return reinterpret_cast<uintptr_t>(memory); }

    // The driver is never closed: it does not expect to be.
    static void* symbol(const char* name) {
        static void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
        if (!library) throw std::runtime_error("no CUDA driver: libcuda.so.1 could not be opened");
        void* address = dlsym(library, name);
        if (!address) throw std::runtime_error(std::string("the CUDA driver has no ") + name + ": too old");
        return address;
    }
    template <class Function, class... Args>
    static int result(const char* name, Args... args) {
        return reinterpret_cast<Function*>(symbol(name))(args...);
    }
    template <class Function, class... Args>
    static void call(const char* name, Args... args) {
        const int code = result<Function>(name, args...);
        if (!code) return;
        const char* text = nullptr;
        result<int(int, const char**)>("cuGetErrorName", code, &text);
        throw std::runtime_error(std::string(name) + ": " + (text ? text : "unknown CUDA error") + " (" + std::to_string(code) + ")");
    }
    // Where a destructor has nobody to tell.
    template <class Function, class... Args>
    static void quietly(const char* name, Args... args) noexcept {
        result<Function>(name, args...);
    }

    int32_t ordinal_ = -1;
    int device_ = 0;
    void* context_ = nullptr;
};

// `size` elements on a device, aligned to 256 bytes. data() is an address of the device: only a CPU device's may be dereferenced.
template <class T>
class buffer {
public:
    buffer(const device& on, size_t size) : device_(&on), data_(static_cast<T*>(on.allocate(size * sizeof(T)))), size_(size) {}
    template <class C, class = decltype(std::data(std::declval<const C&>()))>
    buffer(const device& on, const C& host) : buffer(on, std::size(host)) {
        device_->upload(data_, std::data(host), size_ * sizeof(T));
    }
    buffer(buffer&& other) noexcept : device_(other.device_), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    buffer& operator=(buffer&& other) noexcept {
        std::swap(device_, other.device_), std::swap(data_, other.data_), std::swap(size_, other.size_);
        return *this;
    }
    ~buffer() { device_->free(data_); }

    T* data() { return data_; }
    const T* data() const { return data_; }
    size_t size() const { return size_; }
    // `to` has as many elements as the buffer, or fewer. Synchronize first where a stream of its own writes the buffer.
    template <class C>
    void download(C& to) const {
        if (std::size(to) > size_) throw std::runtime_error("download of more elements than the buffer has");
        device_->download(std::data(to), data_, std::size(to) * sizeof(T));
    }

private:
    const device* device_;
    T* data_;
    size_t size_;
};

}  // namespace flashqla
