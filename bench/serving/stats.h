// What a run took, and the table of it.
#pragma once
#include "model.h"
#include "scheduler.h"

namespace serving {

class Stats {
public:
    explicit Stats(const Options& options);

    bool full() const { return count_ == ms_.size(); }
    void add(const Step& step, const flashqla_query_info& info, double ms, double enqueue_us);
    void print(const Scheduler::Counts& counts, int64_t evicted, double wall_seconds);

private:
    struct Engine {
        const char* name;
        int64_t steps, tokens;
        double ms;
    };
    void print_times(size_t begin, size_t end, const char* what);

    const Options& options_;
    std::vector<float> ms_;  // by step; those with prefill rows are counted in from the back, so that each kind can be sorted
    size_t count_ = 0, decode_steps_ = 0;
    int64_t tokens_[3] = {}, rows_[3] = {}, accepted_ = 0, mixed_ = 0;
    std::vector<Engine> engines_;
    double enqueue_us_ = 0;
};

}  // namespace serving
