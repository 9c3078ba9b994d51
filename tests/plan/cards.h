// Devices that plans are tested for, as plain facts.
#pragma once
#include <flashqla.h>

#include "caps.h"

struct Card {
    const char* name;
    fqla::Caps caps;
};

constexpr uint64_t kKiB = 1024, kMiB = kKiB * 1024;

inline constexpr Card kCards[] = {
    {"cpu8", {false, FLASHQLA_DEVICE_CPU, 0, 0, 0, 0, 0, fqla::Image::none, 8, "avx2"}},
    {"a100", {true, 0, 8, 0, 108, 163 * kKiB, 40 * kMiB, fqla::Image::sm_80, 0, ""}},
    {"rtx4090", {true, 0, 8, 9, 128, 99 * kKiB, 72 * kMiB, fqla::Image::sm_80, 0, ""}},
    {"h100", {true, 0, 9, 0, 132, 227 * kKiB, 50 * kMiB, fqla::Image::sm_90a, 0, ""}},
    {"h100-mig", {true, 0, 9, 0, 16, 227 * kKiB, 50 * kMiB, fqla::Image::sm_90a, 0, ""}},
    {"h100-no90a", {true, 0, 9, 0, 132, 227 * kKiB, 50 * kMiB, fqla::Image::ptx, 0, ""}},
    {"b200", {true, 0, 10, 0, 148, 227 * kKiB, 126 * kMiB, fqla::Image::sm_100f, 0, ""}},
    {"rtx5090", {true, 0, 12, 0, 170, 99 * kKiB, 96 * kMiB, fqla::Image::sm_120f, 0, ""}},
};
