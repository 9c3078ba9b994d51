#include "slots.h"

namespace serving {

PrefixCache::Entry* PrefixCache::entry(int32_t group, int64_t tokens) {
    for (Entry& e : entries_)
        if (e.group == group && e.tokens == tokens) return &e;
    return nullptr;
}

const PrefixCache::Entry* PrefixCache::find(int32_t group, int64_t most, int64_t step) {
    Entry* best = nullptr;
    for (Entry& e : entries_)
        if (e.group == group && e.stored && e.tokens <= most && (!best || e.tokens > best->tokens)) best = &e;
    if (best) best->used = step;
    return best;
}

// A new entry, or the one that was not used for longest.
PrefixCache::Entry* PrefixCache::room(int64_t step, Slots& slots) {
    if (entries_.size() < capacity_) {
        entries_.push_back({-1, slots.take(), 0, 0, false, false});
        return &entries_.back();
    }
    Entry* oldest = nullptr;
    for (Entry& e : entries_)
        if (e.used < step && (!oldest || e.used < oldest->used)) oldest = &e;
    evicted_ += oldest != nullptr;
    return oldest;
}

int32_t PrefixCache::claim(int32_t group, int64_t tokens, int64_t step, Slots& slots) {
    if (entry(group, tokens)) return FLASHQLA_SLOT_PAD;
    Entry* e = room(step, slots);
    if (!e) return FLASHQLA_SLOT_PAD;
    *e = {group, e->slot, tokens, step, false, false};
    return e->slot;
}

void PrefixCache::commit(int64_t step, int32_t group, int64_t tokens, bool rounded) {
    Entry* e = entry(group, tokens);
    if (!e || e->stored || e->used != step) return;
    e->stored = true;
    e->rounded = rounded;
}

}  // namespace serving
