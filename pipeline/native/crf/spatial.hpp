// The permutohedral lattice of places alone.  In two dimensions it is a triangular grid, so it needs no
// table: it is kept as columns of vertices and blurred column by column, while they are in cache.
//
// Vertex (k0, k1, k2) stands in column u = (k0 - k1) / 3, at height r = k0 + k1; columns lie along the
// picture's width, and in each of them every second height is taken: row q = (r - (u mod 2)) / 2.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "kernels.hpp"
#include "memory.hpp"
#include "order.hpp"
#include "team.hpp"

namespace crf {

class Spatial {
   public:
    // Throws std::range_error if the standard deviation (in pixels) is too small.
    Spatial(const Order &order, float sigma, bool symmetric, const Kernels &kernels, Team &team);

    // Room for values of so many lanes; vertices are given as places among these.
    void prepare(int lanes);

    const Vertices<2> *points() const { return points_.data(); }
    const float *after() const { return after_.data(); }
    const float *blurred() const { return blurred_.data(); }
    float *splatted() { return splatted_.data(); }

    // A sweep over the pixels: open a tile before splatting from it, close it afterwards (it blurs what is
    // complete), and finish when all threads are done.
    void open_tile(int part, size_t tile);
    void close_tile(int part, size_t tile);
    void finish();

    size_t size() const { return size_; }

   private:
    struct Share {           // of one thread
        int first, last;     // columns that its pixels touch
        int ghosts;          // of these, the columns that earlier threads touch too; it has its own copies of them
        size_t ghost_place;  // vertex number of the first copy
        int own_begin, own_end;  // columns that nobody else has a part in, nor in their neighbours two away
        int opened, blurred;     // in the present sweep: columns before are cleared, or done
        Buffer<float> ring;
    };
    struct Run {  // vertices of a column without a gap
        int begin, end;
    };

    void locate(const std::vector<std::pair<int, int>> &corners);
    void normalise();
    void blur(int begin, int end, Buffer<float> &ring);
    void blur_column(int u, int slant, const float *left, const float *middle, const float *right, float *out) const;
    float *column(float *values, int u) const { return values + size_t(u) * rows_ * lanes_; }
    size_t place(const Share &share, int u) const {
        return u < share.first + share.ghosts ? share.ghost_place + size_t(u - share.first) * rows_ : size_t(u) * rows_;
    }

    const Order &order_;
    const bool symmetric_;
    const Kernels &kernels_;
    int columns_ = 0, rows_ = 0, lanes_ = 0;
    size_t size_ = 0, places_ = 0;
    std::vector<std::vector<Run>> runs_;
    std::vector<int> reach_, settled_;  // of a tile: one past the last column touched; columns before it are complete
    std::vector<Share> shares_;
    Buffer<Vertices<2>> points_;
    Buffer<float> after_, blurred_, splatted_, nothing_;
};

}  // namespace crf
