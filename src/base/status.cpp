#include "status.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>

namespace fqla {
namespace {
// Plain bytes: no constructor to run at a thread's start or end.
thread_local char t_message[1024];
thread_local char t_note[512];
}  // namespace

int32_t fail(int32_t status, const char* format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(t_message, sizeof t_message, format, args);
    va_end(args);
    return status;
}

const char* last_message() { return t_message; }

KeptMessage::KeptMessage() {
    static_assert(sizeof text_ == sizeof t_message, "all of it");
    memcpy(text_, t_message, sizeof text_);
}
KeptMessage::~KeptMessage() {
    if (!dropped_) memcpy(t_message, text_, sizeof text_);
}

const char* note(const char* text) {
    snprintf(t_note, sizeof t_note, "%s", text);
    return t_note;
}

const char* status_name(int32_t status) {
    constexpr const char* names[] = {"OK",         "INVALID_ARGUMENT", "UNSUPPORTED", "WORKSPACE_TOO_SMALL", "NO_DRIVER",  "DRIVER_TOO_OLD", "NO_IMAGE",
                                     "NO_CONTEXT", "WRONG_DEVICE",     "NOT_WARM",    "OUT_OF_MEMORY",       "CUDA_ERROR", "INTERNAL"};
    constexpr int32_t count = sizeof(names) / sizeof(names[0]);
    static_assert(count == FLASHQLA_STATUS_INTERNAL + 1, "a name for each status");
    return status >= 0 && status < count ? names[status] : "unknown status";
}

}  // namespace fqla
