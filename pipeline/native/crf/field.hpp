// Mean-field inference in the fully connected CRF: P. Krähenbühl, V. Koltun: Efficient Inference in Fully
// Connected CRFs with Gaussian Edge Potentials, NIPS 2011.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "../upsample.hpp"
#include "kernels.hpp"
#include "lattice.hpp"
#include "memory.hpp"
#include "order.hpp"
#include "sampling.hpp"
#include "spatial.hpp"
#include "team.hpp"
#include "unary.hpp"

namespace crf {

struct Energy {
    float pos_w, pos_xy, bi_w, bi_xy, bi_rgb;
    bool symmetric;  // else messages are normalised after filtering
};

class Field {
   public:
    // `sampled`: the field lives on chosen points instead of all pixels.  Throws std::range_error where a
    // standard deviation is too small for the picture.
    Field(int height, int width, const Energy &energy, bool sampled, const Kernels &kernels, Team &team);

    // From a picture (height × width × 3) and its scores the best class of every pixel (height × width), and if
    // `marginals` is not null the probabilities (classes × height × width).  Only the classes of `alive` take
    // part: the others, each behind one of them by more than `gap` everywhere, keep their probability as one sum,
    // and are given as zero.
    void infer(const uint8_t *image, const upsample::Scores &scores, upsample::Map y, upsample::Map x,
               const std::vector<uint8_t> &alive, double gap, int iterations, uint8_t *labels, ptrdiff_t stride,
               float *marginals);

    // Of the last picture: the vertices of its lattice of places and colours; what an iteration in which all
    // points take part reads and writes if nothing stays in the caches.
    size_t vertices() const { return iterates_ && bilateral_ ? bilateral_->distinct() : 0; }
    size_t bytes() const;

   private:
    enum class Freezing { none, begins, goes_on };  // in a sweep

    int lanes() const { return unary_.lanes(); }
    // The first group of points of a tile; none has a part in two tiles.
    size_t group(size_t tile) const { return order_.tile[tile] / kSweep + tile; }
    void make_bilateral();
    void build(const uint8_t *image);
    void give_back();
    bool iterate(int iterations, bool may_freeze, uint8_t *labels, ptrdiff_t stride, float *marginals);
    bool worth_freezing(size_t groups) const;
    size_t sweep(bool first, bool last, Freezing freezing, float doubt, uint8_t *labels, ptrdiff_t stride,
                 float *marginals);
    void write(size_t begin, size_t end, const float *q, uint8_t *labels, ptrdiff_t stride, float *marginals) const;

    const Energy energy_;
    const bool sampled_;
    const Kernels &kernels_;
    Team &team_;
    Order order_;
    const Order all_;  // pixels, where only some are points
    Sampling sampling_;
    // None of a kernel without weight.
    std::optional<Spatial> spatial_;
    std::optional<Lattice> bilateral_;
    bool iterates_ = false;
    size_t most_ = 0;  // values of the bilateral lattice that there has been need for
    int calm_ = 0;     // pictures in a row that needed less than half of it
    Unary unary_;
    std::vector<uint8_t> alive_;
    Buffer<float> values_[2];  // of the bilateral lattice: blurred, and splatted into
    // Groups of points whose marginals change no more: which they are, and their part of the bilateral lattice.
    std::vector<uint8_t> frozen_;
    Buffer<float> frozen_values_;
};

}  // namespace crf
