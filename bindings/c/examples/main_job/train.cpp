// The backward of a training step, and the clock.
#include <algorithm>

#include "steps.h"

namespace job {

double timed(Backend& backend, const std::function<void()>& run) {
    constexpr int kMostRuns = 15;
    constexpr double kEnoughMs = 400;
    fqla_dev* device = &backend.device();
    fqla_dev_event start, end;
    if (fqla_dev_event_create(device, &start) || fqla_dev_event_create(device, &end)) fail(fqla_dev_error(device));
    const auto once = [&] {
        if (fqla_dev_event_record(device, &start, backend.stream())) fail(fqla_dev_error(device));
        run();
        if (fqla_dev_event_record(device, &end, backend.stream())) fail(fqla_dev_error(device));
        const double ms = fqla_dev_elapsed_ms(device, &start, &end);
        if (ms < 0) fail(fqla_dev_error(device));
        return ms;
    };
    std::vector<double> times{once()};
    if (!backend.exact()) {
        const double begin = fqla_dev_clock_ms();
        times.clear();  // the first was the warm-up
        do times.push_back(once());
        while (times.size() < kMostRuns && fqla_dev_clock_ms() - begin < kEnoughMs);
    }
    fqla_dev_event_destroy(device, &start);
    fqla_dev_event_destroy(device, &end);
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
}

Outcome train(Backend& backend, const Job& job) {
    const Shape& s = job.layer.shape();
    const int64_t tokens = job.train.count, row = s.channels(), scalars = 2 * int64_t{s.value_heads};
    const auto documents = static_cast<int64_t>(job.offsets.size()) - 1;
    const Memory offsets = backend.integers(job.offsets);
    const Memory a_log = backend.weights(job.layer.a_log()), dt_bias = backend.weights(job.layer.dt_bias());
    const Memory qkv = backend.tensor(job.train.qkv), ba = backend.tensor(job.train.ba), d_out = backend.tensor(job.d_out);
    Memory initial = backend.states(documents), d_final = backend.states(documents), d_initial = backend.states(documents);
    initial.write(job.initial);
    d_final.write(job.d_final);
    const Memory out = backend.tensor(tokens * s.value_heads * s.dim);
    const Memory d_qkv = backend.tensor(tokens * row), d_ba = backend.tensor(tokens * scalars);
    const Memory d_a_log = backend.weights(job.layer.a_log()), d_dt_bias = backend.weights(job.layer.dt_bias());

    // Documents of different lengths follow each other without padding; where they begin only the device knows.
    flashqla_sequences sequences;
    check(flashqla_sequences_init(&sequences, sizeof sequences), "flashqla_sequences_init");
    sequences.rows = static_cast<int32_t>(documents);
    sequences.tokens = tokens;
    sequences.offsets = offsets.at(0);
    flashqla_state state;
    check(flashqla_state_init(&state, sizeof state), "flashqla_state_init");
    state.read_data = initial.at(0);

    // The forward keeps what spares the backward a recomputation, if its engine has such a thing.
    const flashqla_query_info forward = backend.prepare(sequences, &state, FLASHQLA_OP_FORWARD);
    const Memory saved(backend, static_cast<int64_t>(forward.saved_bytes + 3) / 4, FLASHQLA_DTYPE_F32);
    Outcome outcome;
    outcome.engine = backend.prepare(sequences, &state, FLASHQLA_OP_BACKWARD).engine_name;
    outcome.tokens = tokens;
    flashqla_forward_args forward_args;
    check(flashqla_forward_args_init(&forward_args, sizeof forward_args), "flashqla_forward_args_init");
    set_inputs(forward_args, s, qkv, ba, 0, a_log, dt_bias);
    forward_args.out = out.view();
    forward_args.saved = forward.saved_bytes ? saved.at(0) : nullptr;
    forward_args.saved_bytes = forward.saved_bytes;
    check(flashqla_forward(backend.handle(), backend.problem(), &sequences, &state, &forward_args, backend.workspace(), backend.workspace_bytes(),
                           backend.stream()),
          "flashqla_forward");

    flashqla_backward_args args;
    check(flashqla_backward_args_init(&args, sizeof args), "flashqla_backward_args_init");
    set_inputs(args, s, qkv, ba, 0, a_log, dt_bias);
    args.d_out = d_out.view();
    args.d_final = d_final.view();
    args.dq = d_qkv.view(0, row, s.dim);  // gradients go where the projections' backward wants them: packed like the activations
    args.dk = d_qkv.view(s.key_channels(), row, s.dim);
    args.dv = d_qkv.view(2 * s.key_channels(), row, s.dim);
    args.d_beta = d_ba.view(0, scalars, 1);
    args.d_gate = d_ba.view(s.value_heads, scalars, 1);
    args.dA_log = d_a_log.view();
    args.ddt_bias = d_dt_bias.view();
    args.d_initial = d_initial.view();
    args.saved = forward_args.saved;
    args.saved_bytes = forward_args.saved_bytes;
    outcome.ms = timed(backend, [&] {
        check(
            flashqla_backward(backend.handle(), backend.problem(), &sequences, &state, &args, backend.workspace(), backend.workspace_bytes(), backend.stream()),
            "flashqla_backward");
    });

    const Values qkv_gradient = d_qkv.read(), ba_gradient = d_ba.read();
    const auto columns = [](const Values& from, int64_t width, int64_t first, int64_t count) {
        Values picked;
        for (int64_t at = 0; at < static_cast<int64_t>(from.size()); at += width)
            picked.insert(picked.end(), from.begin() + static_cast<std::ptrdiff_t>(at + first), from.begin() + static_cast<std::ptrdiff_t>(at + first + count));
        return picked;
    };
    const int64_t keys = s.key_channels();
    outcome.results = {{"dq", columns(qkv_gradient, row, 0, keys)},
                       {"dk", columns(qkv_gradient, row, keys, keys)},
                       {"dv", columns(qkv_gradient, row, 2 * keys, row - 2 * keys)},
                       {"da", columns(ba_gradient, scalars, s.value_heads, s.value_heads)},
                       {"db", columns(ba_gradient, scalars, 0, s.value_heads)},
                       {"dA_log", d_a_log.read()},
                       {"ddt_bias", d_dt_bias.read()},
                       {"d_initial", d_initial.read()}};
    return outcome;
}

}  // namespace job
