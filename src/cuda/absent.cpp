// The CUDA room of a build without CUDA (FLASHQLA_CUDA=OFF): every device is refused with the reason.
#include "device.h"
#include "status.h"

namespace fqla::cuda {
namespace {
int32_t refuse() { return fail(FLASHQLA_STATUS_NO_IMAGE, "this library was built without CUDA kernels (FLASHQLA_CUDA=OFF)"); }
}  // namespace

int32_t current_device() { return -1; }
int32_t open_device(int32_t, Caps&, char*) { return refuse(); }
int32_t check_context(const Caps&) { return refuse(); }
int32_t warm_up(const Caps&, const bool (&)[kKernelSlots]) { return refuse(); }
int32_t launch_forward(const Caps&, const Plan&, const Forward&, const Memory&, void*) { return refuse(); }
int32_t launch_backward(const Caps&, const Plan&, const Backward&, const Memory&, void*) { return refuse(); }

}  // namespace fqla::cuda
