#include "scheduler.h"

#include <algorithm>

namespace serving {
namespace {
constexpr size_t kMostWaiting = 4096;
}  // namespace

Scheduler::Scheduler(const Options& options)
    : options_(options),
      traffic_(options),
      random_(static_cast<uint64_t>(options.seed) + 2),
      slots_(options.slots()),
      cache_(options.cached),
      waiting_(kMostWaiting),
      active_(static_cast<size_t>(options.requests)),
      token_slots_(static_cast<size_t>(options.requests * options.draft)) {
    for (int64_t place = options.requests; place > 0; place--) places_.push_back(static_cast<int32_t>(place - 1));
    order_.reserve(active_.size());
    finished_.reserve(active_.size());
}

void Scheduler::arrivals(double now) {
    Request request;
    while (traffic_.arrived(now, request)) {
        counts.arrived++;
        if (waiting_count_ == kMostWaiting)
            counts.turned_away++;
        else
            waiting_[(waiting_first_ + waiting_count_++) % kMostWaiting] = request;
    }
}

void Scheduler::close() {
    counts.turned_away += static_cast<int64_t>(waiting_count_);
    waiting_count_ = 0;
}

void Scheduler::admit() {
    while (waiting_count_ && !places_.empty()) {
        const int32_t place = places_.back();
        places_.pop_back();
        order_.push_back(place);
        Active& active = at(place);
        active = Active();
        active.request = waiting_[waiting_first_];
        waiting_first_ = (waiting_first_ + 1) % kMostWaiting;
        waiting_count_--;
        active.home = slots_.take();
        for (int64_t t = 0; t < options_.draft; t++) token_slots_[static_cast<size_t>(place * options_.draft + t)] = slots_.take();
    }
    counts.most_at_once = std::max(counts.most_at_once, static_cast<int64_t>(order_.size()));
}

int32_t Scheduler::state_slot(int32_t place) const {
    const Active& active = active_[static_cast<size_t>(place)];
    return active.accepted ? token_slots(place)[active.accepted - 1] : active.home;
}

bool Scheduler::plan(Step& step) {
    step.clear(++steps_);
    admit();
    const bool prefill = std::any_of(order_.begin(), order_.end(), [&](int32_t place) { return in_prefill(place); });
    const bool verify = options_.mixed || !prefill;
    for (const int32_t place : order_)  // first, so that no answer waits for another's prompt
        if (!in_prefill(place)) add_decode(place, verify, step);
    for (const int32_t place : order_)
        if (in_prefill(place) && !add_prefill(place, step)) break;
    return !step.rows().empty();
}

void Scheduler::add_decode(int32_t place, bool verify, Step& step) {
    const Active& active = at(place);
    const Request& r = active.request;
    if (!verify || !r.drafts) {  // rolls back, where there is something to, by the slot that it reads
        step.add({place, Kind::decode, active.done, 1, 1}, {state_slot(place), active.home});
        step.add_piece(r.row_of(active.done), 1);
        return;
    }
    // Rolls back by the accepted count: the host of a real engine need not know it yet. Each guess is right three times in four.
    const int64_t tokens = std::min(options_.draft, r.length - active.done);
    int64_t right = 1;
    while (right < tokens && random_.below(4)) right++;
    step.add({place, Kind::verify, active.done, tokens, right}, {active.home, FLASHQLA_SLOT_NONE, active.accepted, token_slots(place)});
    step.add_piece(r.row_of(active.done), right);
    step.add_piece(r.row_of(active.done + right) + kWrong, tokens - right);
}

// The slot of the longest checkpoint of the request's prefix, or NONE. One token of the prompt at least is left to compute.
int32_t Scheduler::begin_from_checkpoint(Active& active, int64_t step) {
    if (active.request.group < 0) return FLASHQLA_SLOT_NONE;
    counts.lookups++;
    const PrefixCache::Entry* entry = cache_.find(active.request.group, std::min(active.request.shared, active.request.prompt - 1), step);
    if (!entry) return FLASHQLA_SLOT_NONE;
    counts.hits++;
    counts.reused_tokens += entry->tokens;
    active.done = active.reused = entry->tokens;
    active.rounded = entry->rounded;
    return entry->slot;
}

// False where the step has no room for a chunk. Chunks end at multiples of the interval or the prompt's end, since a row's checkpoints are
// counted from its own first token.
bool Scheduler::add_prefill(int32_t place, Step& step) {
    const int64_t room = options_.budget - step.tokens();
    if (room < options_.interval) return false;
    Active& active = at(place);
    const Request& r = active.request;
    const int32_t read = active.done ? active.home : begin_from_checkpoint(active, step.number());
    int64_t tokens = r.prompt - active.done;
    if (tokens > room) tokens = room - room % options_.interval;
    step.add({place, Kind::prefill, active.done, tokens, tokens}, {read, active.home});
    const int64_t of_prefix = std::clamp<int64_t>(r.shared - active.done, 0, tokens);
    step.add_piece(r.row_of(active.done), of_prefix);
    step.add_piece(r.row_of(active.done + of_prefix), tokens - of_prefix);
    claim_checkpoints(active, tokens, step);
    return true;
}

void Scheduler::claim_checkpoints(const Active& active, int64_t tokens, Step& step) {
    const Request& r = active.request;
    for (int64_t j = 0; (j + 1) * options_.interval <= tokens && active.done + (j + 1) * options_.interval <= r.shared; j++) {
        const int32_t slot = cache_.claim(r.group, active.done + (j + 1) * options_.interval, step.number(), slots_);
        counts.checkpoints += slot >= 0;
        step.set_checkpoint(j, slot);
    }
}

void Scheduler::commit(const Step& step, bool rounded) {
    for (const StepRow& row : step.rows()) {
        Active& active = at(row.place);
        active.rounded |= rounded;
        const int64_t before = active.done;
        active.done += row.right;
        active.accepted = row.kind == Kind::verify ? static_cast<int32_t>(row.right) : 0;
        for (int64_t t = before + options_.interval; row.kind == Kind::prefill && t <= std::min(active.done, active.request.shared); t += options_.interval)
            cache_.commit(step.number(), active.request.group, t, active.rounded);
        if (active.done == active.request.length) finished_.push_back(row.place);
    }
}

void Scheduler::release() {
    for (const int32_t place : finished_) {
        slots_.give(at(place).home);
        for (int64_t t = 0; t < options_.draft; t++) slots_.give(token_slots(place)[t]);
        places_.push_back(place);
        order_.erase(std::find(order_.begin(), order_.end(), place));
        counts.finished++;
    }
    finished_.clear();
}

}  // namespace serving
