// Which image a device runs. Pure, so that it is tested without a device.
#pragma once
#include "caps.h"

namespace fqla::cuda {

// A cubin runs on its major version from its minor on, on desktop and server parts (Tegra has no such promise); sm_90a on 9.0 alone;
// the family targets 100f on 10.0 and 10.3, 120f on 12.0 and 12.1. PTX, if inside, serves cards newer than every image.
// `inside` has a bit for each Image.
Image image_for(int32_t compute_major, int32_t compute_minor, bool tegra, uint32_t inside);

const char* image_name(Image image);

// The images of this build, a bit each.
uint32_t images_inside();

}  // namespace fqla::cuda
