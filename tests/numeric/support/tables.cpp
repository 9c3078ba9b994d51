// Contents of offsets and slot tables, and what they mean.
#include <algorithm>

#include "sample.h"

namespace numeric {
namespace {

std::vector<int64_t> make_offsets(const Case& c) {
    std::vector<int64_t> offsets{c.offsets == Offsets::gaps ? 70 : 0};  // more than a chunk of any engine
    for (const int64_t length : c.lengths) offsets.push_back(offsets.back() + length);
    return offsets;
}

// Reading and writing slots of a case with tables; every slot that is written is written once and read by nobody else.
void make_row_slots(const Case& c, const std::vector<int32_t>& slot, Tables& tables, Random& random) {
    const auto n = static_cast<size_t>(c.rows());
    const auto outside = static_cast<int32_t>(tables.slots + 2);
    for (size_t i = 0; i < n; i++) {
        tables.read_slots.push_back(slot[i]);
        // In place for every other row where one pool serves both.
        tables.write_slots.push_back(c.in_place() && i % 2 ? slot[i] : slot[n + i]);
        if (c.states != States::special_slots) continue;
        constexpr int32_t special[] = {FLASHQLA_SLOT_NONE, FLASHQLA_SLOT_PAD, -7};
        const int64_t kind = static_cast<int64_t>(i) % 3 == 0 ? 0 : random.below(9);
        if (kind >= 1 && kind <= 3) tables.read_slots[i] = special[kind - 1];
        if (kind >= 4 && kind <= 6) tables.write_slots[i] = special[kind - 4];
        if (kind == 7) tables.read_slots[i] = outside;
        if (kind == 8) tables.read_slots[i] = tables.write_slots[i] = FLASHQLA_SLOT_NONE;
    }
}

// `next` counts the slots taken. One entry in five stores nothing, in one of the ways to say so.
std::vector<int32_t> make_extra_slots(size_t entries, const std::vector<int32_t>& slot, size_t next, int64_t slots, Random& random) {
    const int32_t nothing[] = {FLASHQLA_SLOT_PAD, FLASHQLA_SLOT_NONE, static_cast<int32_t>(slots)};
    std::vector<int32_t> table;
    for (size_t i = 0; i < entries; i++) table.push_back(random.below(5) ? slot[next + i] : nothing[random.below(3)]);
    return table;
}

}  // namespace

Tables make_tables(const Case& c, Random& random) {
    Tables tables;
    tables.offsets = make_offsets(c);
    const int64_t n = c.rows();
    tables.checkpoint_width = c.extra == Extra::checkpoints ? c.longest() / c.checkpoint_interval + 1 : 0;
    const int64_t extras = n * (c.extra == Extra::checkpoints ? tables.checkpoint_width : c.stores_tokens() ? c.token_width : 0);
    tables.slots = c.has_slot_tables() ? 2 * n + extras + 3 : n + extras;
    std::vector<int32_t> slot;
    for (int64_t i = 0; i < tables.slots; i++) slot.push_back(static_cast<int32_t>(i));
    if (c.has_slot_tables()) {
        random.shuffle(slot);
        make_row_slots(c, slot, tables, random);
    }
    const auto taken = static_cast<size_t>(c.has_slot_tables() ? 2 * n : n), entries = static_cast<size_t>(extras);
    if (c.extra == Extra::checkpoints) tables.checkpoint_slots = make_extra_slots(entries, slot, taken, tables.slots, random);
    if (c.stores_tokens()) tables.token_slots = make_extra_slots(entries, slot, taken, tables.slots, random);
    if (c.extra == Extra::accepted)
        for (int64_t i = 0; i < n; i++) tables.accepted.push_back(static_cast<int32_t>(random.below(c.token_width + 3) - 1));
    return tables;
}

std::vector<Row> rows_of(const Sample& sample) {
    const Case& c = sample.c;
    const Tables& t = sample.tables;
    const auto valid = [&](int64_t slot) { return slot >= 0 && slot < t.slots; };
    std::vector<Row> rows;
    for (size_t n = 0; n < c.lengths.size(); n++) {
        Row row;
        row.begin = t.offsets[n];
        row.length = c.lengths[n];
        if (c.reads_state()) {
            int64_t slot = t.read_slots.empty() ? static_cast<int64_t>(n) : t.read_slots[n];
            const int64_t accepted = t.accepted.empty() ? 0 : t.accepted[n];
            if (accepted < 0 || accepted > c.token_width)
                slot = FLASHQLA_SLOT_PAD;
            else if (accepted > 0)
                slot = t.token_slots[n * static_cast<size_t>(c.token_width) + static_cast<size_t>(accepted) - 1];
            row.start = valid(slot) ? slot : -1;
            row.skip_forward = row.skip_backward = !valid(slot) && slot != FLASHQLA_SLOT_NONE;
        }
        if (c.writes_state()) {
            const int64_t slot = t.write_slots.empty() ? static_cast<int64_t>(n) : t.write_slots[n];
            if (!valid(slot) && slot != FLASHQLA_SLOT_NONE) row.skip_forward = true;
            for (size_t j = 0; j < static_cast<size_t>(t.checkpoint_width); j++) {
                const int64_t to = t.checkpoint_slots[n * static_cast<size_t>(t.checkpoint_width) + j],
                              count = static_cast<int64_t>(j + 1) * c.checkpoint_interval;
                if (valid(to) && count <= row.length) row.stores.push_back({count, to});
            }
            for (int64_t j = 0; !t.token_slots.empty() && j < c.token_width && j < row.length; j++) {
                const int64_t to = t.token_slots[n * static_cast<size_t>(c.token_width) + static_cast<size_t>(j)];
                if (valid(to)) row.stores.push_back({j + 1, to});
            }
            if (valid(slot) && c.extra != Extra::no_final) row.stores.push_back({row.length, slot});
        }
        if (row.skip_forward) row.stores.clear();
        std::stable_sort(row.stores.begin(), row.stores.end(), [](const Store& a, const Store& b) { return a.count < b.count; });
        rows.push_back(row);
    }
    return rows;
}

Sample make_sample(const Case& c) {
    Sample sample;
    sample.c = c;
    Random random(c.seed);
    sample.tables = make_tables(c, random);
    sample.tokens = sample.tables.offsets.back() + (c.offsets == Offsets::gaps ? 5 : 0);
    sample.values = make_values(c, sample.tokens, sample.tables.slots, random);
    return sample;
}

}  // namespace numeric
