// What a CUDA device is, and whose context is current.
#include "device.h"

#include <cstring>

#include "driver.h"
#include "images.h"
#include "status.h"

namespace fqla::cuda {
namespace {

int32_t check_ordinal(const Driver& driver, int32_t ordinal) {
    int count = 0;
    FQLA_TRY(driver, cuDeviceGetCount, &count);
    if (count == 0) return fail(FLASHQLA_STATUS_NO_DRIVER, "the CUDA driver sees no device");
    if (ordinal >= count)
        return fail(FLASHQLA_STATUS_INVALID_ARGUMENT, "config.device = %d: the CUDA driver sees %d device%s", ordinal, count, count == 1 ? "" : "s");
    return FLASHQLA_STATUS_OK;
}

// Green contexts and MPS give a context fewer multiprocessors than the device has; plans fill what the current context has.
void narrow_to_context(const Driver& driver, CUdevice device, Caps& caps) {
    CUcontext context = nullptr;
    CUdevice current = -1;
    CUdevResource resource{};
    if (driver.cuCtxGetCurrent(&context) || !context || driver.cuCtxGetDevice(&current) || current != device) return;
    if (driver.cuCtxGetDevResource(context, &resource, CU_DEV_RESOURCE_TYPE_SM)) return;
    const auto count = static_cast<int32_t>(resource.sm.smCount);
    if (count > 0 && count < caps.multiprocessors) caps.multiprocessors = count;
}

}  // namespace

int32_t current_device() {
    const Driver* driver = nullptr;
    CUcontext context = nullptr;
    CUdevice device = -1;
    if (open_driver(driver) || driver->cuCtxGetCurrent(&context) || !context || driver->cuCtxGetDevice(&device)) return -1;
    return device;
}

int32_t open_device(int32_t ordinal, Caps& caps, char* name) {
    const Driver* opened = nullptr;
    if (const int32_t s = open_driver(opened)) return s;
    const Driver& driver = *opened;
    if (const int32_t s = check_ordinal(driver, ordinal)) return s;
    CUdevice device = -1;
    FQLA_TRY(driver, cuDeviceGet, &device, ordinal);
    FQLA_TRY(driver, cuDeviceGetName, name, 64, device);
    int major = 0, minor = 0, multiprocessors = 0, shared = 0, l2 = 0, integrated = 0;
    FQLA_TRY(driver, cuDeviceGetAttribute, &major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device);
    FQLA_TRY(driver, cuDeviceGetAttribute, &minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device);
    FQLA_TRY(driver, cuDeviceGetAttribute, &multiprocessors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device);
    FQLA_TRY(driver, cuDeviceGetAttribute, &shared, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, device);
    FQLA_TRY(driver, cuDeviceGetAttribute, &l2, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, device);
    FQLA_TRY(driver, cuDeviceGetAttribute, &integrated, CU_DEVICE_ATTRIBUTE_INTEGRATED, device);
    caps = {};
    caps.cuda = true;
    caps.device = ordinal;
    caps.compute_major = major;
    caps.compute_minor = minor;
    caps.multiprocessors = multiprocessors;
    caps.shared_memory_bytes = static_cast<uint64_t>(shared);
    caps.l2_bytes = static_cast<uint64_t>(l2);
    caps.image = image_for(major, minor, integrated != 0, images_inside());
    caps.simd_name = "";
    if (caps.image == Image::none)
        return fail(FLASHQLA_STATUS_NO_IMAGE, "%s (compute capability %d.%d): this library holds no image for it; it has %s", name, major, minor, FQLA_IMAGES);
    narrow_to_context(driver, device, caps);
    return FLASHQLA_STATUS_OK;
}

int32_t check_context(const Caps& caps) {
    const Driver* opened = nullptr;
    if (const int32_t s = open_driver(opened)) return s;
    const Driver& driver = *opened;
    CUcontext context = nullptr;
    FQLA_TRY(driver, cuCtxGetCurrent, &context);
    if (!context) return fail(FLASHQLA_STATUS_NO_CONTEXT, "no CUDA context is current on this thread: make one current (the library creates none)");
    CUdevice device = -1;
    FQLA_TRY(driver, cuCtxGetDevice, &device);
    if (device != caps.device)
        return fail(FLASHQLA_STATUS_WRONG_DEVICE, "the current context is of CUDA device %d, the handle of device %d: make a handle for each device", device,
                    caps.device);
    return FLASHQLA_STATUS_OK;
}

}  // namespace fqla::cuda
