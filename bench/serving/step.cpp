#include "step.h"

#include <algorithm>

namespace serving {

Step::Step(const Options& options) : options_(options), rows_at_most_(static_cast<size_t>(options.requests)), writers_(static_cast<size_t>(options.slots())) {
    read_ = rows_at_most_ + 1;
    write_ = read_ + rows_at_most_;
    accepted_ = write_ + rows_at_most_;
    token_slots_ = accepted_ + rows_at_most_;
    checkpoint_slots_ = token_slots_ + rows_at_most_ * static_cast<size_t>(options.draft);
    tables_.resize(checkpoint_slots_ + rows_at_most_ * static_cast<size_t>(options.checkpoints()));
    rows_.reserve(rows_at_most_);
    pieces_.reserve(2 * rows_at_most_);  // a row has two at most: prefix and rest, or right and wrong guesses
}

void Step::clear(int64_t number) {
    number_ = number;
    rows_.clear();
    pieces_.clear();
    longest_ = filled_ = 0;
    std::fill_n(kinds_, 3, false);
    checkpoints_ = false;
    tables_[0] = 0;
    std::fill(tables_.begin() + static_cast<std::ptrdiff_t>(token_slots_), tables_.end(), int32_t{FLASHQLA_SLOT_PAD});
}

void Step::add(const StepRow& row, const RowSlots& slots) {
    const size_t n = rows_.size();
    rows_.push_back(row);
    tables_[n + 1] = static_cast<int32_t>(tables_[n] + row.tokens);
    tables_[read_ + n] = slots.read;
    tables_[write_ + n] = slots.write;
    tables_[accepted_ + n] = slots.accepted;
    const auto width = static_cast<size_t>(options_.draft);
    if (slots.token_slots) std::copy_n(slots.token_slots, width, tables_.begin() + static_cast<std::ptrdiff_t>(token_slots_ + n * width));
    longest_ = std::max(longest_, row.tokens);
    kinds_[static_cast<size_t>(row.kind)] = true;
}

void Step::add_piece(int64_t from, int64_t count) {
    if (count > 0) pieces_.push_back({from, filled_, count});
    filled_ += count;
}

void Step::set_checkpoint(int64_t entry, int32_t slot) {
    checkpoints_ |= slot >= 0;
    tables_[checkpoint_slots_ + (rows_.size() - 1) * static_cast<size_t>(options_.checkpoints()) + static_cast<size_t>(entry)] = slot;
}

bool Step::write(int32_t slot, size_t row) {
    if (slot < 0) return true;
    Access& writer = writers_[static_cast<size_t>(slot)];
    if (writer.step == number_ && writer.row != row) return false;
    writer = {number_, row};
    return true;
}

bool Step::read(int32_t slot, size_t row) const {
    return slot < 0 || writers_[static_cast<size_t>(slot)].step != number_ || writers_[static_cast<size_t>(slot)].row == row;
}

int64_t Step::conflicts() {
    const auto draft = static_cast<size_t>(options_.draft), width = static_cast<size_t>(options_.checkpoints());
    int64_t found = 0;
    for (size_t n = 0; n < rows_.size(); n++) {
        found += !write(tables_[write_ + n], n);
        for (size_t t = 0; t < draft; t++) found += !write(tables_[token_slots_ + n * draft + t], n);
        for (size_t j = 0; j < width; j++) found += !write(tables_[checkpoint_slots_ + n * width + j], n);
    }
    for (size_t n = 0; n < rows_.size(); n++) {
        const auto accepted = static_cast<size_t>(tables_[accepted_ + n]);
        found += !read(accepted ? tables_[token_slots_ + n * draft + accepted - 1] : tables_[read_ + n], n);
    }
    return found;
}

void Step::describe(const int32_t* block, flashqla_sequences& sequences, flashqla_state& state) const {
    sequences.rows = static_cast<int32_t>(rows_.size());
    sequences.tokens = tokens();
    sequences.max_tokens = longest_;
    sequences.offsets = block;
    state.read_slots = block + read_;
    state.write_slots = block + write_;
    if (has(Kind::verify)) {
        state.token_slots = block + token_slots_;
        state.token_width = options_.draft;
        state.accepted = block + accepted_;
        if (!has(Kind::prefill) && !has(Kind::decode)) state.flags = FLASHQLA_STATE_NO_FINAL;
    }
    if (checkpoints_) {
        state.checkpoint_interval = options_.interval;
        state.checkpoint_slots = block + checkpoint_slots_;
        state.checkpoint_width = options_.checkpoints();
    }
}

}  // namespace serving
