// The main job: a text through one linear-attention layer of Qwen3-Next, on the device and in float64, side by side.
#include <algorithm>
#include <cstdio>
#include <exception>

#include "backend.h"
#include "options.h"
#include "steps.h"
#include "table.h"

namespace {

using namespace job;

// Bounds of the relative error. Storing a tensor in its own type alone costs 1.7e-3 in bf16 and 2.1e-4 in f16; tensor cores also round
// q, k, v, the deltas and a copy of the state on the way, and a gradient goes through two such chains. Final states are f32, so they
// have the way's rounding alone. In f32 what is left is the order of long sums.
struct Bounds {
    double out, state, gradient;
};

Bounds bounds_of(int32_t dtype) {
    if (dtype == FLASHQLA_DTYPE_F32) return {1e-5, 1e-5, 2e-5};
    if (dtype == FLASHQLA_DTYPE_F16) return {7e-4, 5e-4, 1.2e-3};
    return {5e-3, 3e-3, 8e-3};
}

std::string read_text(const std::string& file) {
    std::string text;
    std::FILE* stream = std::fopen(file.c_str(), "rb");
    if (!stream) return text;
    char piece[65536];
    while (const size_t count = std::fread(piece, 1, sizeof piece, stream)) text.append(piece, count);
    std::fclose(stream);
    return text;
}

void describe(const Backend& backend, const Options& options, const Job& job, size_t text_bytes) {
    const flashqla_device& d = backend.info();
    if (d.device >= 0)
        std::printf("device    %s (CUDA device %d), kernels %s\n", d.name, d.device, d.image);
    else
        std::printf("device    CPU, %d threads, %s\n", d.threads, d.image);
    std::printf("library   %s\n", flashqla_build_info());
    std::printf("text      %s, %lld of its %zu bytes are the prompt\n", options.file.c_str(), static_cast<long long>(job.prompt.count), text_bytes);
    const Shape& s = job.layer.shape();
    std::printf("layer     %d key heads, %d value heads of %d, %s\n", s.key_heads, s.value_heads, s.dim, dtype_name(backend.dtype()));
}

using Step = std::function<Outcome(Backend&, Session&, const Progress&)>;

int run(const Options& options, const std::string& text) {
    const Layer layer(Shape{}, options.dtype);
    const auto length = static_cast<int64_t>(text.size());
    const Job job(layer, text, std::min(length, options.tokens), std::min({length, options.tokens, options.train_tokens}));
    Backend backend(options.device, options.dtype, layer), exact(FLASHQLA_DEVICE_CPU, FLASHQLA_DTYPE_F64, layer);
    describe(backend, options, job, text.size());
    Session session(backend, job), exact_session(exact, job);

    const Bounds bounds = bounds_of(options.dtype);
    const struct {
        const char* name;
        Step run;
    } steps[] = {
        {"prefill", [](Backend&, Session& s, const Progress& p) { return s.prefill(p); }},
        {"decode", [](Backend&, Session& s, const Progress& p) { return s.decode(p); }},
        {"verify", [](Backend&, Session& s, const Progress& p) { return s.verify(p); }},
        {"backward", [&job](Backend& b, Session&, const Progress&) { return train(b, job); }},
    };
    const auto bound_of = [&](const std::string& tensor) { return tensor == "out" ? bounds.out : tensor == "state" ? bounds.state : bounds.gradient; };

    std::vector<Outcome> outcomes;
    for (const auto& step : steps) {
        Watch watch(step.name);
        outcomes.push_back(step.run(backend, session, std::ref(watch)));
    }
    std::printf("engines  ");
    for (size_t i = 0; i < outcomes.size(); i++) std::printf("%s %s: %s", i ? "," : "", steps[i].name, outcomes[i].engine.c_str());
    std::printf("\n\n");

    Table table;
    table.head();
    for (size_t i = 0; i < outcomes.size(); i++) {
        Outcome truth;
        {
            Watch watch(std::string("float64 ") + steps[i].name);
            truth = steps[i].run(exact, exact_session, std::ref(watch));
        }
        for (size_t t = 0; t < truth.results.size(); t++) {
            const std::string& tensor = truth.results[t].tensor;
            table.add(steps[i].name, outcomes[i], tensor, relative_error(outcomes[i].results[t].values, truth.results[t].values), bound_of(tensor));
        }
        if (std::string(steps[i].name) != "verify") continue;
        // Tokens that verify accepted shall be worth what decode makes of them, and so shall the state it goes on from.
        for (size_t t = 0; t < truth.results.size(); t++)
            table.add(steps[i].name, outcomes[i], "~decode " + truth.results[t].tensor,
                      relative_error(outcomes[i].results[t].values, outcomes[i - 1].results[t].values), bound_of(truth.results[t].tensor));
    }
    std::printf("\n%d of %d within bounds. error: |x - float64| / |float64|; verify's ~decode: against decode's own result.\n",
                table.checks() - table.failures(), table.checks());
    return table.failures() ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
    job::Options options;
    std::string error;
    if (!job::parse_options(argc, argv, options, error)) {
        std::fprintf(stderr, "flashqla-main-job: %s\n\n%s", error.c_str(), job::kUsage);
        return 2;
    }
    if (options.help) {
        std::fputs(job::kUsage, stdout);
        return 0;
    }
    const std::string text = read_text(options.file);
    if (text.empty()) {
        std::fprintf(stderr, "flashqla-main-job: %s: cannot be read, or is empty; name a text file\n\n%s", options.file.c_str(), job::kUsage);
        return 2;
    }
    try {
        return run(options, text);
    } catch (const std::exception& e) {
        std::fprintf(stderr, "flashqla-main-job: %s\n", e.what());
        return 1;
    }
}
