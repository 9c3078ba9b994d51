// Beyond 8 GiB of workspace the tensor-core backward goes by windows of chunks. How many there are the bounds say, so a few rows of tokens that lie far behind
// the tensors' beginning stand where windows meet: there they must have the bits that they have in one piece.
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "check.h"

using namespace numeric;

namespace {

constexpr int32_t kKeyHeads = 4, kValueHeads = 16, kDim = 128;
const std::vector<int64_t> kLengths{70, 0, 700, 64, 130};
constexpr int64_t kRows = 5, kTokens = 964, kMatrix = int64_t{kDim} * kDim;

// A tensor on the device, of which only a part is ever looked at.
struct DeviceArray {
    explicit DeviceArray(int64_t bytes) : data(static_cast<char*>(fqla_dev_alloc(&session().device, static_cast<size_t>(bytes)))) {
        REQUIRE_MESSAGE(data, std::string(fqla_dev_error(&session().device)));
    }
    ~DeviceArray() { fqla_dev_free(&session().device, data); }
    DeviceArray(const DeviceArray&) = delete;
    DeviceArray& operator=(const DeviceArray&) = delete;
    char* const data;
};

std::vector<uint8_t> random_numbers(int64_t count, int32_t dtype, Random& random) {
    const int64_t each = dtype_bytes(dtype);
    std::vector<uint8_t> bytes(static_cast<size_t>(count * each));
    for (int64_t i = 0; i < count; i++) encode(dtype, random.uniform(-1, 1), &bytes[static_cast<size_t>(i * each)]);
    return bytes;
}

// What the backward gives the rows where these begin at token `begin` of tensors of `tokens` tokens.
std::vector<uint8_t> gradients(int64_t begin, int64_t tokens, bool wants_dv, bool pads, int32_t& launches) {
    fqla_dev* const device = &session().device;
    Random random(7);
    std::vector<std::unique_ptr<DeviceArray>> arrays;
    const auto array = [&](int64_t bytes) { return arrays.emplace_back(std::make_unique<DeviceArray>(bytes))->data; };
    const auto input = [&](flashqla_tensor& t, int64_t width, int32_t dtype) {
        const std::vector<uint8_t> numbers = random_numbers(kTokens * width, dtype, random);
        const int64_t each = width * dtype_bytes(dtype);
        char* const data = array(tokens * each);
        REQUIRE(fqla_dev_upload(device, data + begin * each, numbers.data(), numbers.size()) == 0);
        t.data = data;
    };
    const auto constants = [&](flashqla_tensor& t, int64_t count) {
        const std::vector<uint8_t> numbers = random_numbers(count, FLASHQLA_DTYPE_F32, random);
        t.data = array(count * 4);
        REQUIRE(fqla_dev_upload(device, t.data, numbers.data(), numbers.size()) == 0);
    };
    flashqla_problem problem;
    flashqla_problem_init(&problem, sizeof problem, FLASHQLA_FORM_QWEN);
    problem.key_heads = kKeyHeads, problem.value_heads = kValueHeads, problem.key_dim = problem.value_dim = kDim;
    problem.engine = FLASHQLA_ENGINE_CHUNKED;
    std::vector<int64_t> offsets{begin};
    for (const int64_t length : kLengths) offsets.push_back(offsets.back() + length);
    flashqla_sequences sequences;
    flashqla_sequences_init(&sequences, sizeof sequences);
    sequences.rows = kRows, sequences.tokens = tokens, sequences.max_tokens = 700, sequences.offsets_dtype = FLASHQLA_DTYPE_I64;
    sequences.offsets = array(static_cast<int64_t>(offsets.size()) * 8);
    REQUIRE(fqla_dev_upload(device, const_cast<void*>(sequences.offsets), offsets.data(), offsets.size() * 8) == 0);
    flashqla_tensor pool{};
    constants(pool, kRows * kValueHeads * kMatrix);
    flashqla_state state;
    flashqla_state_init(&state, sizeof state);
    state.read_data = pool.data, state.read_slots_count = kRows;
    const std::vector<int32_t> slots{4, FLASHQLA_SLOT_NONE, pads ? FLASHQLA_SLOT_PAD : 0, 1, 2};
    state.read_slots = reinterpret_cast<int32_t*>(array(kRows * 4));
    REQUIRE(fqla_dev_upload(device, const_cast<int32_t*>(state.read_slots), slots.data(), slots.size() * 4) == 0);

    flashqla_backward_args args;
    flashqla_backward_args_init(&args, sizeof args);
    input(args.q, kKeyHeads * kDim, FLASHQLA_DTYPE_BF16), input(args.k, kKeyHeads * kDim, FLASHQLA_DTYPE_BF16);
    input(args.v, kValueHeads * kDim, FLASHQLA_DTYPE_BF16), input(args.d_out, kValueHeads * kDim, FLASHQLA_DTYPE_BF16);
    input(args.gate, kValueHeads, FLASHQLA_DTYPE_F32), input(args.beta, kValueHeads, FLASHQLA_DTYPE_F32);
    constants(args.A_log, kValueHeads), constants(args.dt_bias, kValueHeads);
    constants(args.d_final, kRows * kValueHeads * kMatrix);
    struct Output {
        flashqla_tensor& tensor;
        int64_t first, bytes, all;
    };
    const auto by_token = [&](flashqla_tensor& t, int64_t each) { return Output{t, begin * each, kTokens * each, tokens * each}; };
    std::vector<Output> outputs{by_token(args.dq, kKeyHeads * kDim * 2), by_token(args.dk, kKeyHeads * kDim * 2), by_token(args.d_gate, kValueHeads * 4),
                                by_token(args.d_beta, kValueHeads * 4)};
    if (wants_dv) outputs.push_back(by_token(args.dv, kValueHeads * kDim * 2));
    outputs.push_back({args.d_initial, 0, kRows * kValueHeads * kMatrix * 4, kRows * kValueHeads * kMatrix * 4});
    for (const Output& out : outputs) out.tensor.data = array(out.all);

    flashqla_query_info info{};
    info.struct_size = sizeof info;
    REQUIRE(flashqla_query(session().handle, &problem, &sequences, &state, FLASHQLA_OP_BACKWARD, &info) == FLASHQLA_STATUS_OK);
    launches = info.launches;
    char* const workspace = array(static_cast<int64_t>(info.workspace_bytes));
    REQUIRE_MESSAGE(flashqla_backward(session().handle, &problem, &sequences, &state, &args, workspace, info.workspace_bytes, nullptr) == FLASHQLA_STATUS_OK,
                    std::string(flashqla_last_error()));
    REQUIRE(fqla_dev_sync(device) == 0);
    std::vector<uint8_t> bytes;
    for (const Output& out : outputs) {
        const size_t at = bytes.size();
        bytes.resize(at + static_cast<size_t>(out.bytes));
        REQUIRE(fqla_dev_download(device, &bytes[at], static_cast<char*>(out.tensor.data) + out.first, static_cast<size_t>(out.bytes)) == 0);
    }
    return bytes;
}

}  // namespace

TEST_SUITE_BEGIN("gradients");

TEST_CASE("gpu: gradients of rows that go on from one window of the workspace to the next") {
    flashqla_device device{};
    device.struct_size = sizeof device;
    REQUIRE(flashqla_device_info(session().handle, &device) == FLASHQLA_STATUS_OK);
    if (device.compute_major != 9) return;  // the tensor-core backward is Hopper's
    constexpr int64_t window = 4058 * 64;   // tokens: 132,264 bytes a chunk and head
    // Windows meet in the long row (which may be skipped), where it begins, in the empty one before it.
    struct {
        int64_t before;
        bool wants_dv, pads;
    } const calls[] = {{400, true, false}, {400, false, true}, {150, false, false}, {100, true, false}};
    for (const auto& call : calls) {
        int32_t whole = 0, by_windows = 0;
        const std::vector<uint8_t> want = gradients(0, kTokens, call.wants_dv, call.pads, whole);
        CHECK(whole == 4);
        for (const int64_t end : {window, 2 * window}) {
            const std::vector<uint8_t> got = gradients(end - call.before, 3 * window - 1000, call.wants_dv, call.pads, by_windows);
            CAPTURE(end);
            CAPTURE(call.before);
            CHECK(by_windows == 2 * 2 + 3 * 3 + 1);
            CHECK(got.size() == want.size());
            CHECK(std::memcmp(got.data(), want.data(), want.size()) == 0);
            if (session().quick) break;
        }
    }
}

TEST_SUITE_END();
