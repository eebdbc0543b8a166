// Open addressing from 64-bit lattice keys to vertex numbers.  Entries of earlier frames are told by
// their stamp, so nothing is cleared between frames.
#pragma once

#include <cstdint>
#include <vector>

namespace crf {

class Table {
   public:
    // Forget everything; make room for about `expected` keys.
    void reset(size_t expected) {
        if (slots_.empty() || expected * 2 > slots_.size() || ++stamp_ == 0) resize(expected * 2);
        used_ = 0;
    }

    void prefetch(uint64_t key) const { __builtin_prefetch(&slots_[place(key)]); }

    // The key's number; -1 if it is unknown.
    int32_t find(uint64_t key) const {
        for (size_t h = place(key);; h = (h + 1) & mask_) {
            const Slot &slot = slots_[h];
            if (slot.stamp != stamp_) return -1;
            if (slot.key == key) return slot.id;
        }
    }

    // The key's number, which is `next` if it was unknown.
    int32_t insert(uint64_t key, int32_t next) {
        for (size_t h = place(key);; h = (h + 1) & mask_) {
            Slot &slot = slots_[h];
            if (slot.stamp != stamp_) {
                slot = {key, next, stamp_};
                if (++used_ * 2 > slots_.size()) grow();
                return next;
            }
            if (slot.key == key) return slot.id;
        }
    }

    // A filter that fits the nearer caches: whether a key may be there.  It knows the keys marked since.
    void open_filter(size_t expected) {
        int bits = 10;
        while ((size_t(1) << bits) < expected * 12) ++bits;
        filter_.assign(size_t(1) << (bits - 6), 0);
        filter_shift_ = 64 - bits;
    }
    void mark(uint64_t key) {
        const uint64_t h = (key * kMix) >> filter_shift_;
        filter_[h >> 6] |= uint64_t(1) << (h & 63);
    }
    bool may_have(uint64_t key) const {
        const uint64_t h = (key * kMix) >> filter_shift_;
        return (filter_[h >> 6] >> (h & 63)) & 1;
    }

   private:
    static constexpr uint64_t kMix = 0xd6e8feb86659fd93u;

    struct Slot {
        uint64_t key;
        int32_t id;
        uint32_t stamp;
    };

    size_t place(uint64_t key) const { return size_t((key * 0x9e3779b97f4a7c15u) >> shift_); }

    void resize(size_t least) {
        int bits = 10;
        while ((size_t(1) << bits) < least) ++bits;
        slots_.assign(size_t(1) << bits, Slot{0, 0, 0});
        mask_ = slots_.size() - 1;
        shift_ = 64 - bits;
        stamp_ = 1;
    }

    void grow() {
        std::vector<Slot> old;
        old.swap(slots_);
        const uint32_t alive = stamp_;
        resize(old.size() * 2);
        for (const Slot &slot : old) {
            if (slot.stamp != alive) continue;
            size_t h = place(slot.key);
            while (slots_[h].stamp == stamp_) h = (h + 1) & mask_;
            slots_[h] = {slot.key, slot.id, stamp_};
        }
    }

    std::vector<Slot> slots_;
    size_t mask_ = 0, used_ = 0;
    int shift_ = 0;
    uint32_t stamp_ = 0;
    std::vector<uint64_t> filter_;
    int filter_shift_ = 0;
};

}  // namespace crf
