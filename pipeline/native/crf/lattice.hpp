// The permutohedral lattice of one picture's places and colours.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "kernels.hpp"
#include "memory.hpp"
#include "order.hpp"
#include "table.hpp"
#include "team.hpp"

namespace crf {

class Lattice {
   public:
    static constexpr int D = 5;

    struct Sigmas {  // in pixels and in levels
        float place, colour;
    };

    // Throws std::range_error if keys of 63 bits cannot tell the vertices apart.
    Lattice(const Order &order, Sigmas sigmas, Strength strength, int parts);

    // Vertices, weights (with the normalisation in them) and neighbours for a height × width × 3 picture.
    void build(const uint8_t *image, int lanes, const Kernels &kernels, Team &team);

    // `values` (size × lanes) blurred in place along all axes.
    void blur(float *values, int lanes, const Kernels &kernels, Team &team) const;

    // Prepare what tile `t` splats into for the first time: clear it, and `frozen` unless that is null; or, if
    // frozen points have splatted there before, begin with what they have.
    void open_tile(size_t t, float *values, float *frozen, bool before, int lanes) const;

    size_t size() const { return size_; }          // vertices, shared ones counted for each part that has them
    size_t distinct() const { return distinct_; }  // vertices
    size_t links() const;                          // entries of all chains
    const Vertices<5> *points() const { return points_.data(); }
    const float *after() const { return strength_.symmetric ? nullptr : after_.data(); }  // see Pass

   private:
    static constexpr int kMetBits = 10, kMet = 1 << kMetBits;

    struct Part {  // what one thread has built of its share of the pixels
        Table table;
        std::vector<uint64_t> keys;
        std::vector<float> mass;
        std::vector<std::pair<int32_t, int32_t>> twins;  // vertices that an earlier part has too: own, that one's
        std::vector<uint8_t> twin;
        Buffer<int32_t> chain[D + 1];
        size_t length[D + 1] = {};  // of the chains
        int32_t base = 0;

        struct Met {
            uint64_t key;
            int32_t id;
        };
        std::vector<Met> met = std::vector<Met>(kMet);  // lately, by a hash of the key
        Met &recent(uint64_t key) { return met[size_t(key * 0x9e3779b97f4a7c15u >> (64 - kMetBits))]; }
        void forget() { std::fill(met.begin(), met.end(), Met{~uint64_t(0), 0}); }
    };

    void collect(int part, const uint8_t *image, const Kernels &kernels);
    void add(Part &part, size_t first, int count, const Simplices<5> &simplices);
    void merge();
    void link(int part, int axis);
    void chain(int part, int axis);
    void normalise(int part, int unit);

    const Order &order_;
    const Strength strength_;
    Packing<5> packing_;
    std::vector<float> place_y_, place_x_, level_[3];  // features times the lattice's scale
    std::vector<Part> parts_;
    std::vector<size_t> opened_;  // vertices there are when each tile is done, counted in its part
    Buffer<Vertices<5>> points_;
    Buffer<float> after_, mass_;
    Buffer<int32_t> next_;
    Buffer<uint8_t> follows_;
    size_t size_ = 0, distinct_ = 0;
};

}  // namespace crf
