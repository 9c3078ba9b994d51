#include "pairwise.h"

#include <algorithm>

namespace numeric {
namespace {

struct Pair {
    size_t a, b;
    int x, y;
};

class Covering {
public:
    explicit Covering(const std::vector<int>& values) : values_(values) {
        for (size_t a = 0; a < values.size(); a++)
            for (size_t b = a + 1; b < values.size(); b++)
                for (int x = 0; x < values[a]; x++)
                    for (int y = 0; y < values[b]; y++) open_.push_back({a, b, x, y});
    }

    bool done() const { return open_.empty(); }
    Pair front() const { return open_.back(); }
    void give_up() { open_.pop_back(); }
    size_t remove(const Choice& choice) {
        const size_t before = open_.size();
        open_.erase(std::remove_if(open_.begin(), open_.end(), [&](const Pair& p) { return choice[p.a] == p.x && choice[p.b] == p.y; }), open_.end());
        return before - open_.size();
    }

    // Every axis in turn takes the value that closes most pairs with the axes before it.
    Choice greedy(const Pair& seed, Random& random) const {
        Choice choice(values_.size(), -1);
        choice[seed.a] = seed.x, choice[seed.b] = seed.y;
        std::vector<size_t> order;
        for (size_t a = 0; a < values_.size(); a++)
            if (choice[a] < 0) order.push_back(a);
        random.shuffle(order);
        for (const size_t axis : order) {
            std::vector<int> gain(static_cast<size_t>(values_[axis]), 0);
            for (const Pair& p : open_) {
                if (p.a == axis && choice[p.b] == p.y) gain[static_cast<size_t>(p.x)]++;
                if (p.b == axis && choice[p.a] == p.x) gain[static_cast<size_t>(p.y)]++;
            }
            const int best = *std::max_element(gain.begin(), gain.end());
            std::vector<int> equal;
            for (int v = 0; v < values_[axis]; v++)
                if (gain[static_cast<size_t>(v)] == best) equal.push_back(v);
            choice[axis] = equal[static_cast<size_t>(random.below(static_cast<int64_t>(equal.size())))];
        }
        return choice;
    }

private:
    const std::vector<int>& values_;
    std::vector<Pair> open_;
};

}  // namespace

std::vector<Choice> pairwise(const std::vector<int>& values, Random& random, const std::function<void(Choice&)>& make_valid) {
    constexpr int kAttempts = 8;
    std::vector<Choice> choices;
    Covering covering(values);
    while (!covering.done()) {
        const Pair seed = covering.front();
        bool kept = false;
        for (int attempt = 0; attempt < kAttempts && !kept; attempt++) {
            Choice choice = covering.greedy(seed, random);
            make_valid(choice);
            kept = choice[seed.a] == seed.x && choice[seed.b] == seed.y;
            if (!kept) continue;
            covering.remove(choice);
            choices.push_back(choice);
        }
        if (!kept) covering.give_up();
    }
    return choices;
}

}  // namespace numeric
