// Whether requests got what they would have got alone: each sampled request's own tokens are run again, in float64 on the CPU, and its
// outputs and final state in one layer compared, within the bounds of the numeric tests.
#pragma once
#include "model.h"
#include "scheduler.h"

namespace serving {

class Checker {
public:
    Checker(const Options& options, const Bank& bank, const Model& model);

    // Takes up a request whose first row this is, when it is time for the next sample; `progress`: of the run, 0 to 1.
    void follow(Active& active, double progress);
    void take_outputs(const Step& step, Scheduler& scheduler, Model& model);
    void take_finished(Scheduler& scheduler, Model& model);  // those that the scheduler has just finished
    // Compares and prints. Returns how many are wrong.
    int64_t report();

private:
    struct Capture {
        Active active;
        int64_t layer = 0;
        bool whole = false;
        std::vector<uint8_t> out, state;
    };
    std::string compare(const Capture& capture) const;

    const Options& options_;
    const Bank& bank_;
    int64_t token_bytes_;
    std::vector<Capture> captures_;
    size_t used_ = 0;
};

}  // namespace serving
