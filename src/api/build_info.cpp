#include "build_info.h"

#include "flashqla.h"

// FQLA_IMAGES and FQLA_TOOLKIT come from CMake.
#define FQLA_TEXT_(x) #x
#define FQLA_TEXT(x) FQLA_TEXT_(x)

#if defined(__clang__)
#define FQLA_COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define FQLA_COMPILER "gcc " __VERSION__
#else
#define FQLA_COMPILER "unknown compiler"
#endif

namespace fqla {

const char* build_info() {
    return "flashqla " FQLA_TEXT(FLASHQLA_VERSION_MAJOR) "." FQLA_TEXT(FLASHQLA_VERSION_MINOR) "." FQLA_TEXT(
        FLASHQLA_VERSION_PATCH) "; images: " FQLA_IMAGES "; CUDA toolkit: " FQLA_TOOLKIT "; " FQLA_COMPILER;
}

}  // namespace fqla
