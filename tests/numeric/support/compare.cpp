#include "compare.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>

namespace numeric {
namespace {

struct Largest {
    double relative = 0, of_bound = 0;
    size_t count = 0;
};
std::map<std::string, Largest>& largest() {
    static std::map<std::string, Largest> table;
    return table;
}

void remember(const Case& c, const Grid& grid, Arithmetic arithmetic, const Difference& d) {
    constexpr const char* names[] = {"f64", "f32", "16-bit operands"};
    Largest& l =
        largest()[std::string(dtype_name(c.dtype)) + "\t" + names[static_cast<int>(arithmetic)] + "\t" + grid.name + " (" + dtype_name(grid.dtype) + ")"];
    l.count++;
    if (d.relative / d.bound > l.of_bound) l.of_bound = d.relative / d.bound;
    if (d.relative > l.relative) l.relative = d.relative;
}

std::string place(const Grid& grid, size_t index) {
    std::string text = "[";
    for (size_t i = 0; i < grid.shape.size(); i++) {
        const auto inner = static_cast<size_t>(grid.inner(i + 1));
        text += (i ? "," : "") + std::to_string(index / inner % static_cast<size_t>(grid.shape[i]));
    }
    return text + "]";
}

// Rounding on output: relative L2 of many values, and the most that a single value may be off; what the type's least step adds.
struct Rounding {
    double many, single, step;
};
Rounding rounding_of(int32_t dtype) {
    if (dtype == FLASHQLA_DTYPE_BF16) return {2e-3, 3.95e-3, 0};
    if (dtype == FLASHQLA_DTYPE_F16) return {2.5e-4, 4.95e-4, 3e-8};
    return {0, 0, 0};
}

struct Norm {
    double squares = 0, count = 0;
    double carriers = 0;  // how many values it is made of
};
Norm norm_of(const Grid& want) {
    Norm n;
    double fourths = 0;
    for (size_t i = 0; i < want.value.size(); i++)
        if (want.written[i]) n.squares += want.value[i] * want.value[i], fourths += std::pow(want.value[i], 4), n.count++;
    if (fourths > 0) n.carriers = n.squares * n.squares / fourths;
    return n;
}

bool is_sum(const Grid& want) { return !std::strcmp(want.name, "dA_log") || !std::strcmp(want.name, "ddt_bias"); }

double rounding_bound(const Grid& want) {
    const Rounding r = rounding_of(want.dtype);
    const Norm n = norm_of(want);
    if (n.squares == 0) return r.single;
    return (n.carriers > 400 ? r.many : r.single) + r.step * std::sqrt(n.count / n.squares);
}

// Of the computation itself.
double arithmetic_bound(const Case& c, const Grid& want, Arithmetic arithmetic) {
    const bool sums = is_sum(want);
    const bool gradient = want.name[0] == 'd';
    // Keys alike, or beta |k|^2 near 2, make each token's update undo most of the last one's: differences of large numbers.
    const bool hard = c.keys != Keys::random || c.beta_scale > 1;
    switch (arithmetic) {
        case Arithmetic::f64:
            return sums ? 1e-9 : 1e-11;
        case Arithmetic::f32:
            return (gradient ? 2e-5 : 1e-5) * (hard ? 3 : 1) * (sums ? 20 : 1);
        default:
            break;
    }
    // <S, D> of a few tokens that outweigh the others: both factors are rounded, and no other token's error averages theirs out.
    const bool few = (!std::strcmp(want.name, "d_gate") || !std::strcmp(want.name, "d_beta")) && norm_of(want).carriers < 100;
    const double bits = c.dtype == FLASHQLA_DTYPE_F16 ? 0.125 : 1;
    return bits * (gradient ? 8e-3 : 5e-3) * (hard ? 4 : 1) * (sums ? 10 : 1) * (few ? 2 : 1);
}

// Through the L2 norm dx = rs (dy - y (y.dy)): what cancels leaves an error of dy's size, which for K = 1 is nearly all there is.
double cancellation_bound(const Case& c, const Grid& want, Arithmetic arithmetic) {
    if (c.qk_norm != FLASHQLA_NORM_L2 || (std::strcmp(want.name, "dq") && std::strcmp(want.name, "dk"))) return 0;
    double squares = 0;
    for (const double x : want.value) squares += x * x;
    const double unit = arithmetic == Arithmetic::f64 ? 1e-14 : 5e-6;
    return squares > 0 ? unit * want.natural * std::sqrt(static_cast<double>(want.value.size()) / squares) : 0;
}

// Sums over a head's tokens, of terms about as large as d_gate's: where they cancel, each token's error is still there. So the error itself is bounded by
// what the terms' errors may add, whatever is left of the sum.
double sum_bound(const Case& c, const Outcome& want, const Grid& sum, Arithmetic arithmetic) {
    const Grid* const terms = is_sum(sum) ? want.find("d_gate") : nullptr;
    const double size = norm_of(sum).squares;
    return terms && size > 0 ? arithmetic_bound(c, *terms, arithmetic) * std::sqrt(norm_of(*terms).squares / size) : 0;
}

}  // namespace

double bound_of(const Case& c, const Grid& want, Arithmetic arithmetic) {
    return rounding_bound(want) + arithmetic_bound(c, want, arithmetic) + cancellation_bound(c, want, arithmetic);
}

Difference compare(const Grid& got, const Grid& want, double bound) {
    Difference d;
    d.bound = bound;
    double error = 0, norm = 0, got_norm = 0, dot = 0, worst = -1, count = 0;
    for (size_t i = 0; i < want.value.size(); i++) {
        if (!want.written[i]) {
            d.stray += got.written[i] != 0;
            continue;
        }
        count++;
        const double x = got.value[i], y = want.value[i];
        if (!std::isfinite(y)) continue;
        if (std::isinf(x) && x == round_to(want.dtype, y * (1 + bound))) continue;  // beyond what the type holds
        d.lost += !got.written[i];
        d.nans += std::isnan(x);
        d.infinities += std::isinf(x);
        if (!std::isfinite(x)) {
            if (worst < HUGE_VAL) worst = HUGE_VAL, d.worst = i;
            continue;
        }
        const double off = std::fabs(x - y);
        if (off > worst) worst = off, d.worst = i;
        error += off * off, norm += y * y, got_norm += x * x, dot += x * y;
    }
    const double least = 1e-6 * want.natural * std::sqrt(count > 0 ? count : 1);
    d.relative = std::sqrt(error) / (std::sqrt(norm) > least ? std::sqrt(norm) : least);
    d.cosine = norm > 0 && got_norm > 0 ? dot / std::sqrt(norm * got_norm) : 1;
    return d;
}

std::string report(const Sample& sample, const Outcome& got, const Outcome& want, Arithmetic arithmetic, const std::vector<const char*>& only) {
    std::string text = got.damage.empty() ? "" : "    " + got.damage + "\n";
    for (size_t g = 0; g < want.grids.size(); g++) {
        const Grid &x = got.grids[g], &y = want.grids[g];
        bool looked_at = only.empty();
        for (const char* name : only) looked_at = looked_at || !std::strcmp(name, y.name);
        if (!looked_at) continue;
        const Difference d = compare(x, y, bound_of(sample.c, y, arithmetic) + sum_bound(sample.c, want, y, arithmetic));
        remember(sample.c, y, arithmetic, d);
        if (d.good()) continue;
        char line[400];
        std::snprintf(line, sizeof line,
                      "    %s (%s): error %.3e, bound %.3e, cosine %.6f; %zu NaN, %zu inf, %zu unchanged and %zu stray of %zu; worst %s: got %.9g, want %.9g\n",
                      y.name, dtype_name(y.dtype), d.relative, d.bound, d.cosine, d.nans, d.infinities, d.lost, d.stray, y.value.size(),
                      place(y, d.worst).c_str(), x.value.empty() ? 0 : x.value[d.worst], y.value.empty() ? 0 : y.value[d.worst]);
        text += line;
    }
    return text.empty() ? text : "\n  " + sample.c.text() + "\n" + text;
}

void print_largest_errors() {
    if (largest().empty()) return;
    std::printf("dtype\tarithmetic\ttensor (as stored)\tlargest relative L2\tof its bound\tcalls\n");
    for (const auto& [name, l] : largest()) std::printf("%s\t%.1e\t%.2f\t%zu\n", name.c_str(), l.relative, l.of_bound, l.count);
}

}  // namespace numeric
