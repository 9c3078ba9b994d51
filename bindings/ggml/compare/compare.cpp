// compare [SECONDS [THREADS...]]: ggml's GGML_OP_GATED_DELTA_NET and flashqla through examples/hook.h, each a node of a ggml graph over the
// same tensors on the same number of ggml's threads. A row a shape: the median time of each, and the relative L2 difference of what they
// gave. Exit status 1 where that is more than rounding. Built by compare.sh.
#include <ggml-cpu.h>
#include <hook.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

constexpr double kMostDifference = 1e-5;
constexpr size_t kLeastRuns = 7, kMostRuns = 5000;
constexpr size_t kNodeBytes = size_t{16} << 20;  // ggml's own, beside the tensors' numbers

struct Shape {
    int64_t dim, key_heads, heads, tokens, sequences, snapshots;
};
constexpr Shape kShapes[] = {
    {128, 16, 32, 1, 1, 1}, {128, 16, 32, 4, 1, 4}, {128, 16, 32, 64, 1, 1}, {128, 16, 32, 512, 1, 1}, {128, 16, 32, 2048, 1, 1}, {128, 2, 8, 1, 1, 1},
    {128, 2, 8, 1, 8, 1},   {128, 2, 8, 64, 1, 1},  {128, 2, 8, 512, 1, 1},  {128, 2, 8, 2048, 1, 1},  {64, 4, 4, 300, 2, 3},
};

struct Node {
    ggml_tensor* out;
    ggml_cgraph* graph;
    ggml_cplan plan;
    std::vector<uint8_t> work;
    std::vector<double> ms;

    void build(ggml_context* ctx, int threads, ggml_threadpool* pool) {
        graph = ggml_new_graph(ctx);
        ggml_build_forward_expand(graph, out);
        plan = ggml_graph_plan(graph, threads, pool);
        work.resize(plan.work_size + 64);
        plan.work_data = work.data();
    }
    void run() {
        const auto begin = std::chrono::steady_clock::now();
        if (ggml_graph_compute(graph, &plan) != GGML_STATUS_SUCCESS) std::exit(2);
        ms.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
    }
    double median() {
        std::nth_element(ms.begin(), ms.begin() + static_cast<std::ptrdiff_t>(ms.size() / 2), ms.end());
        return ms[ms.size() / 2];
    }
};

uint32_t g_seed;
float uniform() {  // in [-1, 1)
    g_seed = g_seed * 1664525u + 1013904223u;
    return static_cast<float>(g_seed >> 8) / (1 << 23) - 1;
}

template <class F>
ggml_tensor* filled(ggml_context* ctx, int64_t a, int64_t b, int64_t c, int64_t d, F number) {
    ggml_tensor* x = ggml_new_tensor_4d(ctx, GGML_TYPE_F32, a, b, c, d);
    std::generate_n(static_cast<float*>(x->data), ggml_nelements(x), number);
    return x;
}

double difference(const ggml_tensor* a, const ggml_tensor* b) {
    double error = 0, size = 0;
    for (int64_t i = 0; i < ggml_nelements(a); i++) {
        const double x = static_cast<const float*>(a->data)[i], y = static_cast<const float*>(b->data)[i];
        error += (x - y) * (x - y), size += x * x;
    }
    return std::sqrt(error / size);
}

bool compare(const Shape& s, int threads, double seconds) {
    const size_t numbers = static_cast<size_t>(s.dim * s.sequences * (2 * s.key_heads * s.tokens + s.heads * (3 * s.tokens + (1 + 2 * s.snapshots) * s.dim)) +
                                               2 * s.heads * s.tokens * s.sequences);
    g_seed = 7;
    ggml_context* ctx = ggml_init({numbers * sizeof(float) + kNodeBytes, nullptr, false});
    const float length = std::sqrt(3.f / static_cast<float>(s.dim));  // keys of norm 1
    ggml_tensor* q = filled(ctx, s.dim, s.key_heads, s.tokens, s.sequences, [&] { return uniform() * length; });
    ggml_tensor* k = filled(ctx, s.dim, s.key_heads, s.tokens, s.sequences, [&] { return uniform() * length; });
    ggml_tensor* v = filled(ctx, s.dim, s.heads, s.tokens, s.sequences, uniform);
    ggml_tensor* g = filled(ctx, 1, s.heads, s.tokens, s.sequences, [] { return -0.05f * (1 + uniform()); });
    ggml_tensor* beta = filled(ctx, 1, s.heads, s.tokens, s.sequences, [] { return 0.5f + 0.5f * uniform(); });
    ggml_tensor* state = filled(ctx, s.dim, s.dim, s.heads, s.sequences, [] { return 0.3f * uniform(); });

    flashqla_ggml_threads handles{};
    Node theirs{}, ours{};
    theirs.out = ggml_gated_delta_net(ctx, q, k, v, g, beta, state, s.snapshots);
    ours.out = flashqla_gated_delta_net(ctx, q, k, v, g, beta, state, s.snapshots, &handles);
    if (ours.out->op == theirs.out->op) std::exit(2);
    for (const Node* node : {&theirs, &ours}) std::fill_n(static_cast<float*>(node->out->data), ggml_nelements(node->out), 0.f);
    ggml_threadpool_params params = ggml_threadpool_params_default(threads);
    ggml_threadpool* pool = ggml_threadpool_new(&params);
    for (Node* node : {&theirs, &ours}) node->build(ctx, threads, pool), node->run(), node->ms.clear();
    const double off = difference(theirs.out, ours.out);
    // Turn by turn, so that what else the machine does meets both.
    double total = 0;
    while (ours.ms.size() < kLeastRuns || (total < seconds * 1e3 && ours.ms.size() < kMostRuns))
        for (Node* node : {&theirs, &ours}) node->run(), total += node->ms.back();
    // The hook on ggml's own node, as a patched ggml would call it.
    std::fill_n(static_cast<float*>(theirs.out->data), ggml_nelements(theirs.out), 0.f);
    for (int i = 0; i < threads; i++)
        if (!flashqla_ggml_try(theirs.out, i, threads, &handles)) std::exit(2);
    const bool same = std::memcmp(theirs.out->data, ours.out->data, ggml_nbytes(ours.out)) == 0;
    if (!same) std::printf("the hook gives something else on ggml's node\n");
    const double a = theirs.median(), b = ours.median();
    std::printf("| %d | %d/%d | %d x %d | %d | %d | %.3f | %.3f | %.2fx | %.1e |\n", static_cast<int>(s.dim), static_cast<int>(s.key_heads),
                static_cast<int>(s.heads), static_cast<int>(s.sequences), static_cast<int>(s.tokens), static_cast<int>(s.snapshots), threads, a, b, a / b, off);
    std::fflush(stdout);
    ggml_threadpool_free(pool);
    flashqla_ggml_free(&handles);
    ggml_free(ctx);
    return same && off < kMostDifference;
}

}  // namespace

int main(int count, char** words) {
    const double seconds = count > 1 ? std::atof(words[1]) : 1;
    std::vector<int> threads;
    for (int i = 2; i < count; i++) threads.push_back(std::atoi(words[i]));
    if (threads.empty()) threads = {1, 2};
    ggml_cpu_init();
    std::printf("ggml %s; %s\n\n", ggml_version(), flashqla_build_info());
    std::printf("| dim | heads | sequences x tokens | snapshots | threads | ggml ms | flashqla ms | speedup | difference |\n");
    std::printf("| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
    bool good = true;
    for (const Shape& shape : kShapes)
        for (const int n : threads) good = compare(shape, n, seconds) && good;
    return good ? 0 : 1;
}
