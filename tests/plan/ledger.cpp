// The workspace ledger: regions lie apart, aligned, within the total.
#include <doctest/doctest.h>

#include <string>

#include "workspace.h"

using fqla::Region;
using fqla::Workspace;

TEST_SUITE("ledger") {
    TEST_CASE("regions are aligned, apart and within the total") {
        Workspace w;
        constexpr int kRegions = static_cast<int>(Region::count);
        for (int r = 0; r < kRegions; r++) w.book(static_cast<Region>(r), static_cast<uint64_t>(1 + 100 * r));
        alignas(256) static char base[64 << 10];
        REQUIRE(w.total_bytes() <= sizeof base);
        const char* end = base;
        for (int r = 0; r < kRegions; r++) {
            const char* at = w.at<char>(static_cast<Region>(r), base);
            CHECK((at - base) % static_cast<int64_t>(Workspace::kAlignment) == 0);
            CHECK(at >= end);
            CHECK(w.bytes(static_cast<Region>(r)) == static_cast<uint64_t>(1 + 100 * r));
            end = at + w.bytes(static_cast<Region>(r));
        }
        CHECK(end <= base + w.total_bytes());
        CHECK(w.total_bytes() % Workspace::kAlignment == 0);
    }

    TEST_CASE("what was not booked is null") {
        Workspace w;
        char base[1];
        CHECK(w.total_bytes() == 0);
        CHECK(w.at<char>(Region::records, base) == nullptr);
        w.book(Region::records, 0);
        CHECK(w.at<char>(Region::records, base) == nullptr);
        CHECK(w.total_bytes() == 0);
    }

    TEST_CASE("each region has a name of its own") {
        for (int r = 0; r < static_cast<int>(Region::count); r++)
            for (int s = 0; s < r; s++) CHECK(std::string(fqla::region_name(static_cast<Region>(r))) != fqla::region_name(static_cast<Region>(s)));
    }
}
