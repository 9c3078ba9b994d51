// The fatbins inside this library, one for each kernel source: the table is written by cmake/cubin.cmake.
#pragma once

namespace fqla::cuda {

struct Embedded {
    const char* source;  // as in variants.inc
    const void* data;
};

extern const Embedded kEmbedded[];
constexpr int kEmbeddedCount = FQLA_EMBEDDED_COUNT;

}  // namespace fqla::cuda
