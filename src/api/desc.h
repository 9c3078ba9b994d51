// Public structs to internal ones, every rule checked on the way. The one place that reads struct_size and resolves defaults.
// Each function returns a status; on failure the thread's message names the field, its value and the rule.
#pragma once
#include "problem.h"

namespace fqla {

int32_t read_config(const flashqla_config* in, flashqla_config& out);

int32_t read_problem(const flashqla_problem* in, bool cpu, Problem& out);
int32_t read_sequences(const flashqla_sequences* in, const Problem& problem, Rows& out);
int32_t read_state(const flashqla_state* in, const Problem& problem, const Rows& rows, StateIo& out);  // in may be null

struct Buffer {
    void* data;
    uint64_t bytes;
};

// What the plan must know of the tensors.
struct Operands {
    bool aligned_16_bytes;  // tensor-core engines may read them
    Buffer saved;
};

// Tensors too. Overlaps are refused here.
int32_t read_forward(const flashqla_forward_args* in, const Buffer& workspace, Forward& call, Operands& operands);
int32_t read_backward(const flashqla_backward_args* in, const Buffer& workspace, Backward& call, Operands& operands);

Bounds bounds_of(const Rows& rows);
StateUse use_of(const StateIo& state);

// Names of the public structs, and their sizes in version 1 of the header, which never change however the structs grow.
template <class T>
struct Public;
#define FQLA_PUBLIC(type, size)                              \
    template <>                                              \
    struct Public<type> {                                    \
        static constexpr const char* name = #type;           \
        static constexpr size_t version1_size = size;        \
        static_assert(sizeof(type) >= size, "structs grow"); \
    }
FQLA_PUBLIC(flashqla_config, 40);
FQLA_PUBLIC(flashqla_problem, 88);
FQLA_PUBLIC(flashqla_sequences, 40);
FQLA_PUBLIC(flashqla_state, 128);
FQLA_PUBLIC(flashqla_forward_args, 472);
FQLA_PUBLIC(flashqla_backward_args, 976);
FQLA_PUBLIC(flashqla_query_info, 48);
FQLA_PUBLIC(flashqla_device, 136);
#undef FQLA_PUBLIC

// Sets *p to zeros of `size` bytes with struct_size; the caller's size may be a newer, larger one.
int32_t init_bytes(void* p, size_t size, size_t version1_size, const char* name);
template <class T>
int32_t init_struct(T* p, size_t size) {
    return init_bytes(p, size, Public<T>::version1_size, Public<T>::name);
}

// Checks and copies an input struct of whatever version into this library's.
int32_t read_bytes(const void* in, void* out, size_t known_size, size_t version1_size, const char* name);
template <class T>
int32_t read_struct(const T* in, T& out) {
    return read_bytes(in, &out, sizeof out, Public<T>::version1_size, Public<T>::name);
}

// Checks an output struct's size, zeroes all of it but struct_size.
int32_t open_bytes(void* p, size_t version1_size, const char* name);
template <class T>
int32_t open_output(T* p) {
    return open_bytes(p, Public<T>::version1_size, Public<T>::name);
}

}  // namespace fqla
