#include "stats.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <numeric>

namespace serving {
namespace {

constexpr size_t kMostSteps = 1 << 22, kMostEngines = 16;

long long wide(int64_t x) { return static_cast<long long>(x); }

}  // namespace

Stats::Stats(const Options& options) : options_(options), ms_(kMostSteps) { engines_.reserve(kMostEngines); }

void Stats::add(const Step& step, const flashqla_query_info& info, double ms, double enqueue_us) {
    const bool prefill = step.has(Kind::prefill);
    const size_t prefill_steps = count_ - decode_steps_;
    ms_[prefill ? ms_.size() - 1 - prefill_steps : decode_steps_] = static_cast<float>(ms);
    decode_steps_ += !prefill;
    count_++;
    mixed_ += prefill && (step.has(Kind::decode) || step.has(Kind::verify));
    enqueue_us_ += enqueue_us;
    for (const StepRow& row : step.rows()) {
        tokens_[static_cast<size_t>(row.kind)] += row.tokens;
        rows_[static_cast<size_t>(row.kind)]++;
        if (row.kind == Kind::verify) accepted_ += row.right;
    }
    auto engine = std::find_if(engines_.begin(), engines_.end(), [&](const Engine& e) { return !std::strcmp(e.name, info.engine_name); });
    if (engine == engines_.end()) {
        if (engines_.size() == kMostEngines) return;
        engine = engines_.insert(engines_.end(), {info.engine_name, 0, 0, 0});
    }
    engine->steps++;
    engine->tokens += step.tokens();
    engine->ms += ms;
}

void Stats::print_times(size_t begin, size_t end, const char* what) {
    const auto first = ms_.begin() + static_cast<std::ptrdiff_t>(begin), last = ms_.begin() + static_cast<std::ptrdiff_t>(end);
    if (first == last) return;
    std::sort(first, last);
    const auto at = [&](double part) { return static_cast<double>(first[static_cast<std::ptrdiff_t>(part * static_cast<double>(last - first - 1))]); };
    std::printf("step ms    %-22s %8zu steps  p50 %9.4f  p99 %9.4f  max %9.4f  p50 of a layer %.1f us\n", what, end - begin, at(0.5), at(0.99), at(1),
                at(0.5) * 1e3 / static_cast<double>(options_.layers));
}

void Stats::print(const Scheduler::Counts& c, int64_t evicted, double wall_seconds) {
    const int64_t prefill = tokens_[0], decode = tokens_[1], verify = tokens_[2];
    double ms = 0;
    for (const Engine& e : engines_) ms += e.ms;
    std::printf("requests   %lld arrived, %lld finished, %lld turned away, %lld at once at most\n", wide(c.arrived), wide(c.finished), wide(c.turned_away),
                wide(c.most_at_once));
    std::printf("tokens     prefill %lld, decode %lld, verify %lld of which %lld accepted (%.2f a row)\n", wide(prefill), wide(decode), wide(verify),
                wide(accepted_), rows_[2] ? static_cast<double>(accepted_) / static_cast<double>(rows_[2]) : 0);
    std::printf("prefixes   %lld of %lld found, %lld tokens not computed again; %lld checkpoints stored, %lld evicted\n", wide(c.hits), wide(c.lookups),
                wide(c.reused_tokens), wide(c.checkpoints), wide(evicted));
    for (const Engine& e : engines_)
        std::printf("engine     %-22s %8lld steps  %5.1f%% of the time  %lld tokens\n", e.name, wide(e.steps), 100 * e.ms / ms, wide(e.tokens));
    std::printf("mixed      %lld of %zu steps had prefill and answering rows in one call\n", wide(mixed_), count_);
    print_times(0, decode_steps_, "without prefill rows");
    print_times(ms_.size() - (count_ - decode_steps_), ms_.size(), "with prefill rows");
    std::move(ms_.end() - static_cast<std::ptrdiff_t>(count_ - decode_steps_), ms_.end(), ms_.begin() + static_cast<std::ptrdiff_t>(decode_steps_));
    print_times(0, count_, "all");
    const double seconds = ms / 1e3;
    std::printf("tokens/s   %.0f in all, %.0f of answers, by the time of the steps (%.2f s of %.2f s); host %.1f us a call\n",
                static_cast<double>(prefill + decode + verify) / seconds, static_cast<double>(decode + accepted_) / seconds, seconds, wall_seconds,
                enqueue_us_ / static_cast<double>(count_));
}

}  // namespace serving
