// One step of the engine: rows of several requests, and the tables by which one call serves them all.
#pragma once
#include <vector>

#include "flashqla.h"
#include "options.h"

namespace serving {

enum class Kind { prefill, decode, verify };

struct StepRow {
    int32_t place;  // of its request among those that run
    Kind kind;
    int64_t token, tokens;  // of the request: the first, and how many
    int64_t right;          // that count: of a verify row those accepted, else all
};

// Where a row's state comes from and goes to.
struct RowSlots {
    int32_t read, write;
    int32_t accepted = 0;                  // of the verify row before; read counts where it is 0
    const int32_t* token_slots = nullptr;  // [draft], or none
};

// Rows [from, from + count) of the bank are the step's tokens from `to` on.
struct Piece {
    int64_t from, to, count;
};

class Step {
public:
    explicit Step(const Options& options);

    void clear(int64_t number);
    void add(const StepRow& row, const RowSlots& slots);  // its pieces and checkpoints then
    void add_piece(int64_t from, int64_t count);          // the next tokens of the row added last
    void set_checkpoint(int64_t entry, int32_t slot);     // of the row added last

    int64_t number() const { return number_; }
    const std::vector<StepRow>& rows() const { return rows_; }
    const std::vector<Piece>& pieces() const { return pieces_; }
    int64_t begin(size_t row) const { return tables_[row]; }
    int64_t tokens() const { return tables_[rows_.size()]; }
    int64_t longest() const { return longest_; }
    bool has(Kind kind) const { return kinds_[static_cast<size_t>(kind)]; }
    // Slots that two rows write, or one row writes and another reads: the library leaves their contents undefined, but a device that takes
    // rows in order would not show it.
    int64_t conflicts();

    // All tables lie in one block, so that one copy brings them to the device: offsets, read slots, write slots, accepted counts, per-token
    // slots, checkpoint slots.
    const std::vector<int32_t>& tables() const { return tables_; }
    // The call's fields, for tables at `block`.
    void describe(const int32_t* block, flashqla_sequences& sequences, flashqla_state& state) const;

private:
    struct Access {
        int64_t step;
        size_t row;
    };
    bool write(int32_t slot, size_t row);  // false: another row of this step has it
    bool read(int32_t slot, size_t row) const;

    const Options& options_;
    size_t rows_at_most_, read_, write_, accepted_, token_slots_, checkpoint_slots_;  // where each table begins; offsets begin at 0
    std::vector<int32_t> tables_;
    std::vector<StepRow> rows_;
    std::vector<Piece> pieces_;
    std::vector<Access> writers_;  // by slot: who wrote it last
    int64_t number_ = 0, longest_ = 0, filled_ = 0;
    bool kinds_[3] = {}, checkpoints_ = false;
};

}  // namespace serving
