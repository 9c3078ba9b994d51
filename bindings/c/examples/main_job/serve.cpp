// Prefill, decode and speculative verify.
#include <cstring>

#include "steps.h"

namespace job {
namespace {

flashqla_sequences one_row(int64_t tokens) {
    flashqla_sequences sequences;
    check(flashqla_sequences_init(&sequences, sizeof sequences), "flashqla_sequences_init");
    sequences.rows = 1;
    sequences.tokens = tokens;
    return sequences;
}

int64_t out_width(const Backend& backend) { return int64_t{backend.layer().shape().value_heads} * backend.layer().shape().dim; }

const int32_t* table(const Memory& memory, int64_t entry) { return static_cast<const int32_t*>(memory.at(entry)); }

std::vector<int32_t> slot_numbers(int32_t slots) {
    std::vector<int32_t> numbers{FLASHQLA_SLOT_NONE};
    for (int32_t slot = 0; slot < slots; slot++) numbers.push_back(slot);
    return numbers;
}

}  // namespace

Session::Session(Backend& backend, const Job& job)
    : backend_(backend),
      job_(job),
      slot_numbers_(backend.integers(slot_numbers(kSlots))),
      pool_(backend.states(kSlots)),
      a_log_(backend.weights(job.layer.a_log())),
      dt_bias_(backend.weights(job.layer.dt_bias())),
      prompt_qkv_(backend.tensor(job.prompt.qkv)),
      prompt_ba_(backend.tensor(job.prompt.ba)),
      next_qkv_(backend.tensor(job.next.qkv)),
      next_ba_(backend.tensor(job.next.ba)),
      draft_qkv_(backend.tensor(job.drafts.qkv)),
      draft_ba_(backend.tensor(job.drafts.ba)),
      prompt_out_(backend.tensor(job.prompt.count * out_width(backend))),
      next_out_(backend.tensor(job.next.count * out_width(backend))),
      draft_out_(backend.tensor(job.drafts.count * out_width(backend))) {
    std::vector<int32_t> counts{0};
    counts.insert(counts.end(), job.accepted.begin(), job.accepted.end());
    accepted_ = backend.integers(counts);
}

flashqla_state Session::slots(int32_t read, int32_t write) {
    flashqla_state state;
    check(flashqla_state_init(&state, sizeof state), "flashqla_state_init");
    state.read_data = state.write_data = pool_.at(0);
    state.read_slots_count = state.write_slots_count = kSlots;
    state.read_slots = table(slot_numbers_, read == kNone ? 0 : read + 1);
    state.write_slots = table(slot_numbers_, write + 1);
    return state;
}

void Session::forward(const Call& call, const flashqla_state& state) {
    const Shape& s = job_.layer.shape();
    const flashqla_sequences sequences = one_row(call.tokens);
    flashqla_forward_args args;
    check(flashqla_forward_args_init(&args, sizeof args), "flashqla_forward_args_init");
    set_inputs(args, s, call.qkv, call.ba, call.first, a_log_, dt_bias_);
    args.out = call.out.view(call.first_out * s.value_heads * s.dim);
    check(
        flashqla_forward(backend_.handle(), backend_.problem(), &sequences, &state, &args, backend_.workspace(), backend_.workspace_bytes(), backend_.stream()),
        "flashqla_forward");
}

Values Session::state_of(int32_t slot) const {
    const Values all = pool_.read();
    const auto size = static_cast<std::ptrdiff_t>(job_.layer.shape().state());
    return {all.begin() + slot * size, all.begin() + (slot + 1) * size};
}

Outcome Session::prefill(const Progress& progress) {
    const int64_t tokens = job_.prompt.count;
    // One call for all; the truth goes piece by piece through the state, to show how far it is.
    const int64_t piece = backend_.exact() ? 128 : tokens;
    Outcome outcome;
    outcome.engine = backend_.prepare(one_row(tokens), nullptr, FLASHQLA_OP_FORWARD).engine_name;
    outcome.tokens = tokens;
    outcome.ms = timed(backend_, [&] {
        for (int64_t t = 0; t < tokens; t += piece) {
            progress(t, tokens);
            const int64_t count = tokens - t < piece ? tokens - t : piece;
            forward({prompt_qkv_, prompt_ba_, t, count, prompt_out_, t}, slots(t == 0 ? kNone : kPrompt, kPrompt));
        }
    });
    outcome.results = {{"out", prompt_out_.read()}, {"state", state_of(kPrompt)}};
    return outcome;
}

Outcome Session::decode(const Progress& progress) {
    Outcome outcome;
    outcome.engine = backend_.prepare(one_row(1), nullptr, FLASHQLA_OP_FORWARD).engine_name;
    outcome.tokens = Job::kNew;
    outcome.ms = timed(backend_, [&] {
        for (int64_t t = 0; t < Job::kNew; t++) {
            progress(t, Job::kNew);
            forward({next_qkv_, next_ba_, t, 1, next_out_, t}, slots(t == 0 ? kPrompt : kDecode, kDecode));
        }
    });
    outcome.results = {{"out", next_out_.read()}, {"state", state_of(kDecode)}};
    return outcome;
}

Outcome Session::verify(const Progress& progress) {
    const auto rounds = static_cast<int64_t>(job_.accepted.size());
    int64_t accepted_in_all = 0;
    for (const int32_t count : job_.accepted) accepted_in_all += count;
    // Every call stores the state after each of its tokens in a slot of its own, and starts from the one that the call before had
    // accepted last: `accepted` lies on the device, so the host need not know it. Nothing is copied back.
    const auto speculative = [&](int64_t round, int32_t write) {
        flashqla_state state = slots(kPrompt, write);  // accepted = 0, before the first round, starts from the prompt's state
        state.token_slots = table(slot_numbers_, kFirstDraft + 1);
        state.token_width = Job::kDraft;
        state.accepted = table(accepted_, round);
        return state;
    };
    Outcome outcome;
    const flashqla_state bounds = speculative(0, kResumed);
    outcome.engine = backend_.prepare(one_row(Job::kDraft), &bounds, FLASHQLA_OP_FORWARD).engine_name;
    outcome.tokens = Job::kNew;
    outcome.ms = timed(backend_, [&] {
        for (int64_t r = 0; r < rounds; r++) {
            progress(r * Job::kDraft, rounds * Job::kDraft);
            flashqla_state state = speculative(r, kResumed);
            state.flags = FLASHQLA_STATE_NO_FINAL;
            forward({draft_qkv_, draft_ba_, r * Job::kDraft, Job::kDraft, draft_out_, r * Job::kDraft}, state);
        }
        // Back to plain decoding, from the accepted state.
        for (int64_t t = accepted_in_all; t < Job::kNew; t++)
            forward({next_qkv_, next_ba_, t, 1, next_out_, t}, t == accepted_in_all ? speculative(rounds, kResumed) : slots(kResumed, kResumed));
    });

    const int64_t width = out_width(backend_);
    const Values drafted = draft_out_.read(), resumed = next_out_.read();
    Values out;
    for (int64_t r = 0; r < rounds; r++) {
        const auto begin = drafted.begin() + static_cast<std::ptrdiff_t>(r * Job::kDraft * width);
        out.insert(out.end(), begin, begin + static_cast<std::ptrdiff_t>(job_.accepted[static_cast<size_t>(r)] * width));
    }
    out.insert(out.end(), resumed.begin() + static_cast<std::ptrdiff_t>(accepted_in_all * width), resumed.end());
    outcome.results = {{"out", out}, {"state", state_of(kResumed)}};
    return outcome;
}

}  // namespace job
