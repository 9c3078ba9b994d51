// Status codes' names and the calling thread's last message: every room reports failures through fail().
#pragma once
#include <cstdint>

#include "flashqla.h"

namespace fqla {

// Sets the thread's message (printf-like) and returns `status`, so that a check reads `return fail(...)`.
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
int32_t
fail(int32_t status, const char* format, ...);

const char* last_message();

// Puts the thread's message back when it goes: for failures that a call survives, since it then returns OK.
class KeptMessage {
public:
    KeptMessage();
    ~KeptMessage();
    void drop() { dropped_ = true; }  // the new message stays after all
    KeptMessage(const KeptMessage&) = delete;
    KeptMessage& operator=(const KeptMessage&) = delete;

private:
    char text_[1024];
    bool dropped_ = false;
};

// Keeps a text for the thread until its next note; what flashqla_query's reason points to.
const char* note(const char* text);
const char* status_name(int32_t status);

}  // namespace fqla
