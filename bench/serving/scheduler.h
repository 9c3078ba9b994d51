// Continuous batching: which requests have rows in a step, and which slots these read and write. Nothing is allocated after construction.
#pragma once
#include "slots.h"
#include "step.h"
#include "traffic.h"

namespace serving {

// A request that runs. Its state lies in its home slot, or, after a verify row, in the per-token slot of the last accepted token.
struct Active {
    Request request;
    int64_t done = 0;      // tokens behind which the state stands
    int64_t reused = 0;    // tokens that a checkpoint stood for
    int32_t accepted = 0;  // of the verify row before; 0: the state lies in the home slot
    int32_t home = 0;
    int32_t capture = -1;  // of the checker
    bool started = false;
    bool rounded = false;  // tensor cores had a part in its state
};

class Scheduler {
public:
    explicit Scheduler(const Options& options);

    void arrivals(double now);  // takes in what came until now, in seconds
    void close();               // turns away those that wait
    bool plan(Step& step);      // false: there is nothing to do
    void commit(const Step& step, bool rounded);
    // Places whose requests the last commit finished; release() gives their slots back.
    const std::vector<int32_t>& finished() const { return finished_; }
    void release();

    Active& at(int32_t place) { return active_[static_cast<size_t>(place)]; }
    int32_t state_slot(int32_t place) const;  // where the request's state lies

    struct Counts {
        int64_t arrived = 0, turned_away = 0, finished = 0, most_at_once = 0;
        int64_t lookups = 0, hits = 0, reused_tokens = 0, checkpoints = 0;
    } counts;
    int64_t evicted() const { return cache_.evicted(); }

private:
    void admit();
    void add_decode(int32_t place, bool verify, Step& step);
    bool add_prefill(int32_t place, Step& step);
    int32_t begin_from_checkpoint(Active& active, int64_t step);
    void claim_checkpoints(const Active& active, int64_t tokens, Step& step);
    bool in_prefill(int32_t place) const { return active_[static_cast<size_t>(place)].done < active_[static_cast<size_t>(place)].request.prompt; }
    const int32_t* token_slots(int32_t place) const { return token_slots_.data() + place * options_.draft; }

    const Options& options_;
    Traffic traffic_;
    numeric::Random random_;
    Slots slots_;
    PrefixCache cache_;
    std::vector<Request> waiting_;  // a ring
    size_t waiting_first_ = 0, waiting_count_ = 0;
    std::vector<Active> active_;                      // by place
    std::vector<int32_t> places_, order_, finished_;  // free places; those in use, oldest first; see finished()
    std::vector<int32_t> token_slots_;                // [places, draft]
    int64_t steps_ = 0;
};

}  // namespace serving
