// What the main job prints: a line of progress while something takes long, and the table.
#pragma once
#include <string>

#include "steps.h"

namespace job {

// A line that is overwritten as a step goes on; silent where stderr is no terminal.
class Watch {
public:
    explicit Watch(std::string what);
    ~Watch();
    void operator()(int64_t done, int64_t of);

private:
    void show(const char* text);
    const std::string what_;
    const bool watched_;
    const double begin_;
    double last_;
};

class Table {
public:
    void head() const;
    // A line for one tensor of a step; the step's time stands in its first.
    void add(const std::string& step, const Outcome& outcome, const std::string& tensor, double error, double bound);
    int failures() const { return failures_; }
    int checks() const { return checks_; }

private:
    std::string last_;
    int failures_ = 0, checks_ = 0;
};

}  // namespace job
