#include "images.h"

namespace fqla::cuda {

Image image_for(int32_t major, int32_t minor, bool tegra, uint32_t inside) {
    const auto has = [&](Image image) { return (inside >> static_cast<int>(image) & 1u) != 0; };
    if (major == 8 && !tegra && has(Image::sm_80)) return Image::sm_80;
    if (major == 9 && minor == 0 && has(Image::sm_90a)) return Image::sm_90a;
    if (major == 10 && has(Image::sm_100f)) return Image::sm_100f;
    if (major == 12 && has(Image::sm_120f)) return Image::sm_120f;
    return major >= 8 && has(Image::ptx) ? Image::ptx : Image::none;
}

const char* image_name(Image image) {
    switch (image) {
        case Image::sm_80:
            return "sm_80";
        case Image::sm_90a:
            return "sm_90a";
        case Image::sm_100f:
            return "sm_100f";
        case Image::sm_120f:
            return "sm_120f";
        case Image::ptx:
            return "compute_80 (PTX)";
        default:
            return "none";
    }
}

uint32_t images_inside() { return FQLA_IMAGE_BITS; }

}  // namespace fqla::cuda
