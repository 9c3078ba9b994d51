#include "vec_portable.h"

#define FQLA_KERNELS kPortableKernels
#define FQLA_KERNELS_NAME "portable"
#include "kernels_impl.h"
