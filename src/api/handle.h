// What a flashqla_handle is: immutable facts, and on the CPU a thread pool.
#pragma once
#include "caps.h"
#include "flashqla.h"
#include "thread_pool.h"

struct flashqla_handle {
    fqla::Caps caps;
    fqla::cpu::ThreadPool* pool;  // CPU handles
    flashqla_log_fn log;
    void* log_user;
    char name[64];
    char image[32];

    void say(int32_t level, const char* message) const {
        if (log) log(log_user, level, message);
    }
};
