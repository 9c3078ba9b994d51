// Who holds which slot of the state pools (slot s is slot s of every layer's pool), and the prefix cache.
#pragma once
#include <vector>

#include "flashqla.h"

namespace serving {

class Slots {
public:
    explicit Slots(int64_t count) {
        for (int64_t slot = count; slot > 0; slot--) free_.push_back(static_cast<int32_t>(slot - 1));
    }
    int32_t take() {
        const int32_t slot = free_.back();
        free_.pop_back();
        return slot;
    }
    void give(int32_t slot) { free_.push_back(slot); }
    size_t free() const { return free_.size(); }

private:
    std::vector<int32_t> free_;  // never grows beyond what it held at first
};

// States behind the first `tokens` of a group's prefix. One that a step stores can be read from the next step on, and one that a step
// reads or stores is not evicted in that step, so that no row writes what another reads.
class PrefixCache {
public:
    struct Entry {
        int32_t group, slot;
        int64_t tokens, used;  // used: the last step that needed it
        bool stored, rounded;  // rounded: tensor cores had a part in it
    };

    explicit PrefixCache(int64_t capacity) : capacity_(static_cast<size_t>(capacity)) { entries_.reserve(capacity_); }

    // The longest state of at most `most` tokens, or null.
    const Entry* find(int32_t group, int64_t most, int64_t step);
    // A slot for the state behind `tokens`, or PAD where there is one already or no room.
    int32_t claim(int32_t group, int64_t tokens, int64_t step, Slots& slots);
    // What the step claimed is stored now.
    void commit(int64_t step, int32_t group, int64_t tokens, bool rounded);
    int64_t evicted() const { return evicted_; }

private:
    Entry* entry(int32_t group, int64_t tokens);
    Entry* room(int64_t step, Slots& slots);

    size_t capacity_;
    std::vector<Entry> entries_;
    int64_t evicted_ = 0;
};

}  // namespace serving
