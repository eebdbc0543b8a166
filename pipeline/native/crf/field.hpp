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
#include "spatial.hpp"
#include "team.hpp"

namespace crf {

struct Energy {
    float pos_w, pos_xy, bi_w, bi_xy, bi_rgb;
    bool symmetric;  // else messages are normalised after filtering
};

class Field {
   public:
    // Throws std::range_error where a standard deviation is too small for the picture.
    Field(int height, int width, const Energy &energy, const Kernels &kernels, Team &team);

    // Choose the classes that take part and give their scores; the others' probability is kept as one sum.
    void set_unary(const upsample::Scores &scores, upsample::Map y, upsample::Map x, const std::vector<uint8_t> &alive);
    void set_image(const uint8_t *image) { bilateral_.build(image, lanes_, kernels_, team_); }

    // Iterate; then the best class of every pixel (height × width), and if `marginals` is not null the
    // probabilities (classes × height × width; zero for a class that takes no part).
    void infer(int iterations, uint8_t *labels, ptrdiff_t stride, float *marginals, int classes);

    int lanes() const { return lanes_; }
    const Lattice<5> &bilateral() const { return bilateral_; }
    const Spatial &spatial() const { return spatial_; }

   private:
    void sweep(bool first, bool last, uint8_t *labels, ptrdiff_t stride, float *marginals);
    void write(size_t begin, size_t end, const float *q, uint8_t *labels, ptrdiff_t stride, float *marginals) const;

    const Energy energy_;
    const Kernels &kernels_;
    Team &team_;
    const Order order_;
    Spatial spatial_;
    Lattice<5> bilateral_;
    std::vector<uint8_t> alive_;
    int lanes_ = 0;
    bool lumped_ = false;
    Buffer<float> records_, unary_, rest_, values_[2];  // of the bilateral lattice: blurred, and splatted into
    std::vector<float> bilateral_scale_, spatial_scale_;
};

}  // namespace crf
