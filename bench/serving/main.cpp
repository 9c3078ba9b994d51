// bench_serving: continuous batching through the C API, timed and checked. See options.cpp for its options.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <new>

#include "check.h"
#include "stats.h"

// An engine's loop may not allocate; that of this program proves it by counting.
static std::atomic<long long> allocations{0};
void* operator new(size_t size, const std::nothrow_t&) noexcept {
    allocations++;
    return std::malloc(size ? size : 1);
}
void* operator new(size_t size) {
    if (void* memory = operator new(size, std::nothrow)) return memory;
    throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace {

using namespace serving;

// Seconds since the run began, by the wall or by steps.
class Clock {
public:
    explicit Clock(const Options& options) : step_(options.step_ms / 1e3), begin_(fqla_dev_clock_ms()) {}
    void tick() { steps_++; }
    double wall() const { return (fqla_dev_clock_ms() - begin_) / 1e3; }
    double now() const { return step_ > 0 ? static_cast<double>(steps_) * step_ : wall(); }

private:
    double step_, begin_;
    int64_t steps_ = 0;
};

void run_step(Step& step, Model& model, Scheduler& scheduler, Checker& checker, Stats& stats, double progress) {
    for (const StepRow& row : step.rows()) {
        Active& active = scheduler.at(row.place);
        if (!active.started) checker.follow(active, progress);
        active.started = true;
    }
    if (step.conflicts()) fail("two rows of a step share a slot that one of them writes");
    model.load(step);
    const flashqla_query_info& info = model.engine();
    const double ms = model.run();
    stats.add(step, info, ms, model.enqueue_us());
    checker.take_outputs(step, scheduler, model);
    scheduler.commit(step, info.engine != FLASHQLA_ENGINE_RECURRENT);
    checker.take_finished(scheduler, model);
    scheduler.release();
}

void describe(const Options& o, const Model& model) {
    flashqla_device info{};
    info.struct_size = sizeof info;
    flashqla_device_info(numeric::session().handle, &info);
    const auto wide = [](int64_t x) { return static_cast<long long>(x); };
    std::printf("device     %s, %s; %.1f GiB; %lld layers of %lld/%lld heads of %lld, %s\n", info.name, info.image,
                static_cast<double>(model.memory_bytes()) / 1073741824, wide(o.layers), wide(o.key_heads), wide(o.value_heads), wide(o.dim),
                numeric::dtype_name(o.dtype));
    std::printf("engine     %lld tokens a step, %lld requests at once, drafts of %lld, verify rows %s prefill rows, seed %lld\n", wide(o.budget),
                wide(o.requests), wide(o.draft), o.mixed ? "beside" : "apart from", wide(o.seed));
    std::fflush(stdout);
}

int run(const Options& options) {
    const Bank bank(options, Traffic::bank_rows(options));
    Model model(options, bank);
    Scheduler scheduler(options);
    Checker checker(options, bank, model);
    Stats stats(options);
    Step step(options);
    describe(options, model);

    const long long allocated = allocations;
    Clock clock(options);
    while (!stats.full()) {
        const double now = clock.now();
        const bool open = now < options.seconds;
        clock.tick();
        if (open)
            scheduler.arrivals(now);
        else
            scheduler.close();
        if (scheduler.plan(step))
            run_step(step, model, scheduler, checker, stats, now / options.seconds);
        else if (!open)
            break;
    }
    const long long in_loop = allocations - allocated;
    stats.print(scheduler.counts, scheduler.evicted(), clock.wall());
    const int64_t wrong = checker.report();
    if (in_loop) std::printf("WRONG: %lld allocations in the loop\n", in_loop);
    return wrong || in_loop ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
    Options options;
    std::string error;
    if (!parse_options(argc, argv, options, error)) {
        if (!error.empty()) std::fprintf(stderr, "bench_serving: %s\n\n", error.c_str());
        std::fputs(kUsage, error.empty() ? stdout : stderr);
        return error.empty() ? 0 : 2;
    }
    const std::string missing = numeric::session().open(options.device.c_str());
    if (!missing.empty()) {
        std::printf("skipped: %s\n", missing.c_str());
        return options.cpu() ? 1 : 77;
    }
    int result = 1;
    try {
        result = run(options);
    } catch (const std::exception& e) {
        std::fprintf(stderr, "bench_serving: %s\n", e.what());
    }
    numeric::session().close();
    return result;
}
