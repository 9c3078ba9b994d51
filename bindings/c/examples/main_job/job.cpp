// What the steps work on: prompt, next tokens, drafts, training documents.
#include <algorithm>

#include "steps.h"

namespace job {
namespace {

void append(Tokens& to, const Tokens& more) {
    to.count += more.count;
    to.qkv.insert(to.qkv.end(), more.qkv.begin(), more.qkv.end());
    to.ba.insert(to.ba.end(), more.ba.begin(), more.ba.end());
}

}  // namespace

Job::Job(const Layer& layer_in, const std::string& text, int64_t prompt_tokens, int64_t train_tokens) : layer(layer_in) {
    const Shape& s = layer.shape();
    // A text that ends before the last token starts again.
    std::string all = text;
    while (static_cast<int64_t>(all.size()) < prompt_tokens + kNew) all += text;
    prompt = layer.front(all, 0, prompt_tokens);
    next = layer.front(all, prompt_tokens, kNew);

    // Speculation: a guess that differs from the text is wrong, and so is everything after it. The front (its convolution) sees the guesses.
    constexpr int64_t pattern[] = {4, 2, 1, 3, 4, 4, 1};
    constexpr int64_t resumed = 16;  // tokens left for plain decoding after the last round
    for (int64_t done = 0; done < kNew - resumed;) {
        const int64_t right = std::min(pattern[accepted.size() % (sizeof pattern / sizeof *pattern)], kNew - resumed - done);
        std::string guess = all.substr(0, static_cast<size_t>(prompt_tokens + done + kDraft));
        for (int64_t t = right; t < kDraft; t++) guess[static_cast<size_t>(prompt_tokens + done + t)] ^= 1;
        append(drafts, layer.front(guess, prompt_tokens + done, kDraft));
        accepted.push_back(static_cast<int32_t>(right));
        done += right;
    }

    train = layer.front(all, 0, train_tokens);
    const auto cut = [&](int64_t part) { return static_cast<int32_t>(train_tokens * part / 16); };
    offsets = {0, cut(3), cut(4), cut(16)};
    const auto documents = static_cast<int64_t>(offsets.size()) - 1;
    d_out = normal_values(train_tokens * s.value_heads * s.dim, 1, 1, layer.dtype());
    d_final = normal_values(documents * s.state(), 0.125, 2, FLASHQLA_DTYPE_F32);
    initial = normal_values(documents * s.state(), 0.1, 3, FLASHQLA_DTYPE_F32);
}

}  // namespace job
