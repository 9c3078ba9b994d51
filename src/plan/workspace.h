// The one ledger of workspace, and of what a forward saves: planning books regions, running finds them again by the same key, so size and offsets cannot
// disagree.
#pragma once
#include <cstddef>
#include <cstdint>

namespace fqla {

// Every region that any engine keeps in the caller's workspace, or saves.
enum class Region : uint8_t {
    segment_states,   // states at the start of each segment
    chunk_states,     // states at the start of each chunk of one segment
    state_gradient,   // D = dL/dS carried from segment (Hopper: or window) to segment
    head_gradients,   // dq, dk of each value head before they are summed; Hopper: dv that the caller does not want
    partial_sums,     // dA_log, ddt_bias before they are summed
    records,          // what the solve leaves for each chunk and value head (layouts.h)
    segment_maps,     // transitions of segments, f32 [row, head, segment, K, K]
    residuals,        // e_t = v - S'^T k of a segment's tokens, f32; Hopper: U
    delta_gradients,  // dL/du_t of a segment's tokens, f32; Hopper: dX of tokens of small beta
    chunk_gradients,  // D at the end of each chunk of one segment
    first_carries,    // Hopper: <S, D> of each row's first chunk
    gate_sums,        // log2 decays of each chunk and head
    cut,              // cut.h: the lists of stretches
    count
};

inline const char* region_name(Region r) {
    constexpr const char* names[] = {"segment_states", "chunk_states",    "state_gradient",  "head_gradients", "partial_sums", "records", "segment_maps",
                                     "residuals",      "delta_gradients", "chunk_gradients", "first_carries",  "gate_sums",    "cut"};
    static_assert(sizeof(names) / sizeof(names[0]) == static_cast<size_t>(Region::count), "a name for each region");
    return names[static_cast<size_t>(r)];
}

class Workspace {
public:
    static constexpr uint64_t kAlignment = 256;

    void book(Region r, uint64_t bytes) {
        entries_[static_cast<size_t>(r)] = {total_, bytes};
        total_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    }
    uint64_t total_bytes() const { return total_; }
    uint64_t bytes(Region r) const { return entries_[static_cast<size_t>(r)].bytes; }
    // Null where the region was not booked.
    template <class T>
    T* at(Region r, void* base) const {
        const Entry& e = entries_[static_cast<size_t>(r)];
        return e.bytes ? reinterpret_cast<T*>(static_cast<char*>(base) + e.offset) : nullptr;
    }

private:
    struct Entry {
        uint64_t offset, bytes;
    };
    Entry entries_[static_cast<size_t>(Region::count)] = {};
    uint64_t total_ = 0;
};

// The caller's memory that regions lie in.
struct Memory {
    void *workspace, *saved;
};

}  // namespace fqla
