#include "vec_avx512.h"

#define FQLA_KERNELS kAvx512Kernels
#define FQLA_KERNELS_NAME "avx512"
#include "kernels_impl.h"
