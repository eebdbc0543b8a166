// Mean-field inference in the fully connected CRF: P. Krähenbühl, V. Koltun: Efficient Inference in Fully
// Connected CRFs with Gaussian Edge Potentials, NIPS 2011.
#pragma once

#include <cstdint>
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

    // A picture (height × width × 3) and its scores; only the classes of `alive` take part, the others'
    // probability is kept as one sum.
    void start(const uint8_t *image, const upsample::Scores &scores, upsample::Map y, upsample::Map x,
               const std::vector<uint8_t> &alive);

    // Iterate; then the best class of every pixel (height × width), and if `marginals` is not null the
    // probabilities (classes × height × width; zero for a class that takes no part).
    void infer(int iterations, uint8_t *labels, ptrdiff_t stride, float *marginals, int classes);

    int lanes() const { return unary_.lanes(); }
    const Lattice &bilateral() const { return bilateral_; }
    const Spatial &spatial() const { return spatial_; }
    // What an iteration reads and writes if nothing stays in the caches: of each point its vertices and its
    // unary, of each vertex its values (the place lattice's once each way; the other's again for each axis).
    size_t bytes() const {
        const size_t record = sizeof(float) * size_t(lanes());
        return order_.size() * (record + sizeof(Vertices<5>) + sizeof(Vertices<2>)) +
               2 * (spatial_.size() + bilateral_.size()) * record + bilateral_.links() * (2 * record + sizeof(int32_t));
    }

   private:
    void sweep(bool first, bool last, uint8_t *labels, ptrdiff_t stride, float *marginals);
    void write(size_t begin, size_t end, const float *q, uint8_t *labels, ptrdiff_t stride, float *marginals) const;

    const Energy energy_;
    const bool sampled_;
    const Kernels &kernels_;
    Team &team_;
    Order order_;
    const Order all_;  // pixels, where only some are points
    Sampling sampling_;
    Spatial spatial_;
    Lattice bilateral_;
    Unary unary_;
    std::vector<uint8_t> alive_;
    Buffer<float> values_[2];  // of the bilateral lattice: blurred, and splatted into
};

}  // namespace crf
