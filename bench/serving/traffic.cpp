#include "traffic.h"

#include <algorithm>
#include <cmath>

namespace serving {

Traffic::Traffic(const Options& options) : options_(options), random_(static_cast<uint64_t>(options.seed)) {}

int64_t Traffic::between(int64_t least, int64_t most) {
    const double low = std::log(static_cast<double>(least)), high = std::log(static_cast<double>(most) + 1);
    return std::min(most, static_cast<int64_t>(std::exp(random_.uniform(low, high))));
}

Request Traffic::draw() {
    Request r;
    r.id = count_++;
    if (options_.groups && random_.below(4)) {
        r.group = static_cast<int32_t>(random_.below(options_.groups));
        numeric::Random of_group(numeric::mix(static_cast<uint64_t>(options_.seed)) + static_cast<uint64_t>(r.group));
        r.shared = 64 + of_group.below(options_.prefix - 63);
        r.shared_row = of_group.below(3 * options_.longest());
    }
    r.prompt = r.shared + between(1, options_.prompt);
    r.length = r.prompt + between(1, options_.answer);
    r.own_row = any_row();
    r.drafts = options_.draft && random_.below(4);
    return r;
}

bool Traffic::arrived(double now, Request& request) {
    if (now < next_) return false;
    request = draw();
    next_ += -std::log(1 - random_.uniform()) / options_.rate;
    return true;
}

}  // namespace serving
