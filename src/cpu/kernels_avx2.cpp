#include "vec_avx2.h"

#define FQLA_KERNELS kAvx2Kernels
#define FQLA_KERNELS_NAME "avx2"
#include "kernels_impl.h"
