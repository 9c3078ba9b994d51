// struct_size: structs of older and newer headers (see GROWTH in flashqla.h).
#include <cstring>

#include "desc.h"
#include "status.h"

namespace fqla {

int32_t init_bytes(void* p, size_t size, size_t version1_size, const char* name) {
    if (!p) return fail(FLASHQLA_STATUS_INVALID_ARGUMENT, "%s is NULL", name);
    if (size < version1_size || size > UINT32_MAX)
        return fail(FLASHQLA_STATUS_INVALID_ARGUMENT, "size = %zu for %s: must be sizeof(%s), at least %zu", size, name, name, version1_size);
    memset(p, 0, size);
    const auto struct_size = static_cast<uint32_t>(size);
    memcpy(p, &struct_size, sizeof struct_size);
    return FLASHQLA_STATUS_OK;
}

static int32_t size_of(const void* in, size_t version1_size, const char* name, uint32_t& size) {
    if (!in) return fail(FLASHQLA_STATUS_INVALID_ARGUMENT, "%s is NULL", name);
    memcpy(&size, in, sizeof size);
    if (size < version1_size)
        return fail(FLASHQLA_STATUS_INVALID_ARGUMENT, "%s.struct_size = %u: must be at least %zu (use %s_init)", name, size, version1_size, name);
    if (size > 65536) return fail(FLASHQLA_STATUS_INVALID_ARGUMENT, "%s.struct_size = %u: no version is that large (uninitialised?)", name, size);
    return FLASHQLA_STATUS_OK;
}

int32_t read_bytes(const void* in, void* out, size_t known_size, size_t version1_size, const char* name) {
    uint32_t size = 0;
    if (const int32_t s = size_of(in, version1_size, name, size)) return s;
    memset(out, 0, known_size);
    memcpy(out, in, size < known_size ? size : known_size);
    const char* bytes = static_cast<const char*>(in);
    for (size_t i = known_size; i < size; i++)
        if (bytes[i])
            return fail(FLASHQLA_STATUS_UNSUPPORTED, "%s.struct_size = %u: byte %zu is not zero, a field that version %d does not know", name, size, i,
                        FLASHQLA_VERSION);
    return FLASHQLA_STATUS_OK;
}

int32_t open_bytes(void* p, size_t version1_size, const char* name) {
    uint32_t size = 0;
    if (const int32_t s = size_of(p, version1_size, name, size)) return s;
    memset(static_cast<char*>(p) + sizeof size, 0, size - sizeof size);
    return FLASHQLA_STATUS_OK;
}

int32_t read_config(const flashqla_config* in, flashqla_config& out) {
    out = {};
    out.device = FLASHQLA_DEVICE_BEST;
    if (!in) return FLASHQLA_STATUS_OK;
    if (const int32_t s = read_struct(in, out)) return s;
    if (out.device < FLASHQLA_DEVICE_BEST)
        return fail(FLASHQLA_STATUS_INVALID_ARGUMENT, "config.device = %d: must be a CUDA ordinal, FLASHQLA_DEVICE_CPU (-1) or _BEST (-2)", out.device);
    if (out.threads < 0 || out.threads > 1024) return fail(FLASHQLA_STATUS_INVALID_ARGUMENT, "config.threads = %d: must be 0 to 1024", out.threads);
    if (out.reserved) return fail(FLASHQLA_STATUS_INVALID_ARGUMENT, "config.reserved = %d: must be 0", out.reserved);
    if (out.flags) return fail(FLASHQLA_STATUS_INVALID_ARGUMENT, "config.flags = 0x%llx: no flag is known", static_cast<unsigned long long>(out.flags));
    return FLASHQLA_STATUS_OK;
}

}  // namespace fqla
