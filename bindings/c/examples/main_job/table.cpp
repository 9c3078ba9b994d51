#include "table.h"

#include <unistd.h>

#include <cstdio>
#include <utility>

#include "backend.h"  // first: it asks for POSIX

namespace job {

Watch::Watch(std::string what) : what_(std::move(what)), watched_(isatty(2) == 1), begin_(fqla_dev_clock_ms()), last_(begin_) { show("..."); }

Watch::~Watch() {
    if (watched_) std::fprintf(stderr, "\r%*s\r", 78, "");
}

void Watch::show(const char* text) {
    if (!watched_) return;
    std::fprintf(stderr, "\r  %s %s   ", what_.c_str(), text);
    std::fflush(stderr);
}

void Watch::operator()(int64_t done, int64_t of) {
    const double now = fqla_dev_clock_ms();
    if (!watched_ || now - last_ < 200) return;
    last_ = now;
    char text[64];
    std::snprintf(text, sizeof text, "%lld of %lld tokens, %.0f s", static_cast<long long>(done), static_cast<long long>(of), (now - begin_) / 1e3);
    show(text);
}

void Table::head() const { std::printf("%-9s %-13s %7s %10s %11s %9s %9s  %s\n", "step", "tensor", "tokens", "ms", "tokens/s", "error", "bound", "ok"); }

void Table::add(const std::string& step, const Outcome& outcome, const std::string& tensor, double error, double bound) {
    const bool ok = error <= bound;  // false for NaN
    if (step != last_)
        std::printf("%-9s %-13s %7lld %10.3f %11.0f", step.c_str(), tensor.c_str(), static_cast<long long>(outcome.tokens), outcome.ms,
                    static_cast<double>(outcome.tokens) / outcome.ms * 1e3);
    else
        std::printf("%-9s %-13s %7s %10s %11s", "", tensor.c_str(), "", "", "");
    std::printf(" %9.2e %9.1e  %s\n", error, bound, ok ? "yes" : "NO");
    std::fflush(stdout);
    last_ = step;
    failures_ += !ok;
    checks_++;
}

}  // namespace job
