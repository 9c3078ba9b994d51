// Which image a card runs, for every compute capability and every set of images that a build may hold.
#include "images.h"

#include <doctest/doctest.h>

#include <string>

using fqla::Image;
using fqla::cuda::image_for;
using fqla::cuda::image_name;

namespace {

constexpr uint32_t bit(Image i) { return 1U << static_cast<int>(i); }
constexpr uint32_t kRelease = bit(Image::sm_80) | bit(Image::sm_90a) | bit(Image::sm_100f) | bit(Image::sm_120f), kPtx = bit(Image::ptx);

}  // namespace

TEST_SUITE("images") {
    TEST_CASE("a release on each card") {
        const struct {
            int major, minor;
            bool tegra;
            Image image, with_ptx;
        } cards[] = {
            {7, 5, false, Image::none, Image::none},        {8, 0, false, Image::sm_80, Image::sm_80},      {8, 6, false, Image::sm_80, Image::sm_80},
            {8, 7, true, Image::none, Image::ptx},          {8, 9, false, Image::sm_80, Image::sm_80},      {9, 0, false, Image::sm_90a, Image::sm_90a},
            {10, 0, false, Image::sm_100f, Image::sm_100f}, {10, 3, false, Image::sm_100f, Image::sm_100f}, {11, 0, true, Image::none, Image::ptx},
            {12, 0, false, Image::sm_120f, Image::sm_120f}, {12, 1, false, Image::sm_120f, Image::sm_120f}, {13, 0, false, Image::none, Image::ptx},
        };
        for (const auto& c : cards) {
            CAPTURE(c.major);
            CAPTURE(c.minor);
            CHECK(image_for(c.major, c.minor, c.tegra, kRelease) == c.image);
            CHECK(image_for(c.major, c.minor, c.tegra, kRelease | kPtx) == c.with_ptx);
            CHECK(image_for(c.major, c.minor, c.tegra, 0) == Image::none);
        }
    }

    TEST_CASE("what a build does not hold is never chosen") {
        for (uint32_t inside = 0; inside < 64; inside += 2)
            for (int major = 5; major < 15; major++)
                for (int minor = 0; minor < 10; minor++)
                    for (const bool tegra : {false, true}) {
                        const Image image = image_for(major, minor, tegra, inside);
                        CHECK((image == Image::none || (inside & bit(image))));
                        if (major < 8) CHECK(image == Image::none);
                    }
    }

    TEST_CASE("names") {
        CHECK(std::string(image_name(Image::sm_80)) == "sm_80");
        CHECK(std::string(image_name(Image::sm_90a)) == "sm_90a");
        CHECK(std::string(image_name(Image::sm_100f)) == "sm_100f");
        CHECK(std::string(image_name(Image::sm_120f)) == "sm_120f");
        CHECK(std::string(image_name(Image::ptx)).find("PTX") != std::string::npos);
        CHECK(std::string(image_name(Image::none)) == "none");
    }
}
