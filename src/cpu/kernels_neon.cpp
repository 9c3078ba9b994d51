#include "vec_neon.h"

#define FQLA_KERNELS kNeonKernels
#define FQLA_KERNELS_NAME "neon"
#include "kernels_impl.h"
