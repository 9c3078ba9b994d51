// BATCH_INVARIANT: rows drawn into random batches. A row's output, final state and every state that it stores on the way have the bits
// that they had in the first batch, in which it was alone, whatever its neighbours are, how many, in which order, and where it lies.
#include <map>

#include "check.h"

using namespace numeric;

namespace {

// A row that batches are made of, and the bits that it had when it was first seen.
struct Member {
    Sample alone;
    Numbers out;
    std::map<int64_t, Numbers> states;  // by the tokens before them
};

struct World {
    std::string name;
    Case form;                     // but for its rows
    std::vector<int64_t> lengths;  // of the members
    int64_t most_rows;             // of a large batch; three in four have a quarter
};

Case invariant_case(const char* what) {
    Case c = qwen_case(what, FLASHQLA_DTYPE_BF16);
    c.flags = FLASHQLA_PROBLEM_BATCH_INVARIANT;
    return c;
}

// Every engine's special lengths: none, one token, around a chunk, several chunks. Where many rows make a kernel of another kind serve
// (the recurrent one has such a bound at 50 MB of states), batches go beyond that.
std::vector<World> worlds() {
    Case mixed = invariant_case("invariance, mixed");
    mixed.extra = Extra::checkpoints;
    mixed.strides = Strides::projection;
    Case gaps = mixed;
    gaps.offsets = Offsets::gaps;
    gaps.dtype = FLASHQLA_DTYPE_F16;
    gaps.gate = FLASHQLA_GATE_LOG, gaps.beta = FLASHQLA_BETA_VALUE;
    gaps.flags |= FLASHQLA_PROBLEM_KEYS_BOUNDED;
    Case odd = gaps;
    odd.dtype = FLASHQLA_DTYPE_F32;
    gaps.seed++, odd.seed--;
    odd.key_dim = 40, odd.value_dim = 24;
    odd.state_layout = FLASHQLA_STATE_KV;
    odd.strides = Strides::unaligned;
    Case verify = invariant_case("invariance, verify");
    verify.extra = Extra::token_states;
    verify.token_width = 8;
    verify.state_dtype = FLASHQLA_DTYPE_BF16;
    Case decode = invariant_case("invariance, decode");
    decode.offsets = Offsets::none;
    if (session().cuda()) decode.key_heads = 2, decode.value_heads = 4;
    const std::vector<int64_t> any = {0, 1, 1, 2, 7, 16, 63, 64, 65, 130, 200};
    return {{"mixed", mixed, any, 24},
            {"f16 with gaps", gaps, any, 24},
            {"f32 of odd sizes", odd, any, 40},
            {"verify", verify, {1, 2, 3, 4, 5, 8}, 40},
            {"decode", decode, {1, 1, 1, 1, 1, 1, 1}, session().cuda() ? 320 : 64}};
}

std::vector<Member> make_members(const World& world) {
    Case c = world.form;
    c.lengths = world.lengths;
    c.offsets = Offsets::i32;
    c.states = States::separate;
    c.extra = Extra::none;
    const Sample all = make_sample(c);
    std::vector<Member> members;
    for (int64_t n = 0; n < c.rows(); n++) {
        const auto start = all.values.pool.begin() + n * c.state_elements();
        members.push_back({cut_row(all, n, 0, c.lengths[static_cast<size_t>(n)], Numbers(start, start + c.state_elements())), {}, {}});
    }
    return members;
}

// The batch of these members, each from its own start state; a member may be there more than once. Tokens between rows are noise.
Sample make_batch(const World& world, const std::vector<Member>& members, const std::vector<size_t>& chosen, uint64_t seed) {
    Case c = world.form;
    c.seed = seed;
    c.lengths.clear();
    for (const size_t i : chosen) c.lengths.push_back(world.lengths[i]);
    Sample batch = make_sample(c);
    Values& x = batch.values;
    const auto put = [](Numbers& to, int64_t at, const Numbers& from) { std::copy(from.begin(), from.end(), to.begin() + at); };
    for (size_t n = 0; n < chosen.size(); n++) {
        const Values& own = members[chosen[n]].alone.values;
        const int64_t begin = batch.tables.offsets[n], keys = int64_t{c.key_heads} * c.key_dim, values = int64_t{c.value_heads} * c.value_dim;
        put(x.q, begin * keys, own.q), put(x.k, begin * keys, own.k), put(x.v, begin * values, own.v);
        put(x.gate, begin * c.value_heads, own.gate), put(x.beta, begin * c.value_heads, own.beta);
        put(x.pool, (batch.tables.read_slots.empty() ? static_cast<int64_t>(n) : batch.tables.read_slots[n]) * c.state_elements(), own.pool);
    }
    x.a_log = members[0].alone.values.a_log, x.dt_bias = members[0].alone.values.dt_bias;
    return batch;
}

// Whether these are the bits seen before; what is seen for the first time is kept.
bool as_before(Numbers& seen, const Numbers& got) {
    if (seen.empty()) seen = got;
    return same_bits(seen, got);
}

// Rows whose bits are not those of their member.
size_t different_rows(std::vector<Member>& members, const std::vector<size_t>& chosen, const Sample& batch, const Outcome& got) {
    const Case& c = batch.c;
    const Numbers& out = got.find("out")->value;
    const std::vector<Row> rows = rows_of(batch);
    size_t different = 0;
    for (size_t n = 0; n < rows.size(); n++) {
        Member& member = members[chosen[n]];
        const int64_t width = int64_t{c.value_heads} * c.value_dim;
        const auto begin = out.begin() + rows[n].begin * width;
        bool same = as_before(member.out, Numbers(begin, begin + rows[n].length * width));
        for (const Store& store : rows[n].stores) same = as_before(member.states[store.count], state_of(got, store.slot)) && same;
        different += !same;
    }
    return different;
}

std::vector<size_t> draw(const World& world, Random& random) {
    const int64_t most = random.below(4) ? world.most_rows / 4 : world.most_rows;
    std::vector<size_t> chosen(static_cast<size_t>(1 + random.below(most)));
    for (size_t& i : chosen) i = static_cast<size_t>(random.below(static_cast<int64_t>(world.lengths.size())));
    return chosen;
}

}  // namespace

TEST_SUITE_BEGIN("invariance");

TEST_CASE("BATCH_INVARIANT: random batches leave every row its bits") {
    const int batches = session().quick ? 4 : session().cuda() ? 40 : 20;  // of each of five worlds
    for (const World& world : worlds()) {
        Random random(world.form.seed);
        std::vector<Member> members = make_members(world);
        std::vector<std::vector<size_t>> all;
        for (size_t i = 0; i < members.size(); i++) all.push_back({i});
        for (int i = 0; i < batches; i++) all.push_back(draw(world, random));
        size_t rows = 0;
        for (const std::vector<size_t>& chosen : all) {
            const Sample batch = make_batch(world, members, chosen, random.bits());
            Call call(batch, {});
            const Outcome got = must_run(call);
            CHECK(got.damage == "");
            const size_t different = different_rows(members, chosen, batch, got);
            CHECK_MESSAGE(different == 0, world.name, ": ", different, " of ", chosen.size(), " rows differ: ", batch.c.text());
            rows += chosen.size();
        }
        MESSAGE(world.name, ": ", rows, " rows in ", all.size(), " batches");
    }
}

TEST_SUITE_END();
