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
    // For the pixels of `order`; `keep` what `choose` needs.  Throws std::range_error if the standard
    // deviation (in pixels) is too small.
    Spatial(const Order &order, float sigma, Strength strength, bool keep, const Kernels &kernels, Team &team);

    // From now on only these of all pixels, which the order must have changed to.
    void choose(const std::vector<int32_t> &chosen);

    // Room for values of so many lanes; vertices are given as places among these.
    void prepare(int lanes);
    void prepare_frozen() { frozen_.need(places_ * column()); }

    const Vertices<2> *points() const { return points_.data(); }
    const float *after() const { return strength_.symmetric ? nullptr : after_.data(); }  // see Pass
    const float *blurred() const { return blurred_.data(); }

    // A sweep over the pixels: open a tile before splatting from it, close it afterwards (it blurs what is
    // complete), and finish when all threads are done.  Only the columns at work have memory to splat into:
    // vertex v of an open tile is at splatted(part)[v - offset(part)], in pairs of floats.
    // With `freezes` there is memory beside it for what points splat once and for all, at frozen() and without an
    // offset; `before` where they have done so in an earlier sweep, which an open tile then begins with.
    void open_tile(int part, size_t tile, bool freezes = false, bool before = false);
    float *frozen() { return frozen_.data(); }
    float *splatted(int part) { return shares_[part].window.data(); }
    int32_t offset(int part) const;
    void close_tile(int part, size_t tile);
    void finish();

    size_t size() const { return size_; }

   private:
    struct Share {               // of one thread
        int first = 0, last = 0;      // columns that its pixels touch; its own copies of them are blurred_'s
        size_t place = 0;             // columns' from here on
        int own_begin = 0, own_end = 0;  // columns that nobody else has a part in, nor in their neighbours two away
        int span = 0;                 // columns at work at a time, at most
        // In the present sweep: the window's first column; columns before are open, done, or set aside
        // because another share has a part in what they are blurred to.
        int base = 0, opened = 0, blurred = 0, saved = 0;
        Buffer<float> window, ring, aside;
    };
    struct Run {  // vertices of a column without a gap
        int begin, end;
    };

    void locate(const std::vector<std::pair<int, int>> &corners);
    void find_runs();
    void normalise();
    void restart(Share &share) const;
    void advance(Share &share, int settled);
    bool shared(const Share &share, int u) const { return u < share.own_begin + 2 || u >= share.own_end - 2; }
    template <typename Act>
    void seams(const Act &act) const;
    void blur_seam(int begin, int end);
    template <typename In, typename Out>
    void blur(int begin, int end, const In &in, const Out &out, Buffer<float> &ring) const;
    void blur_column(int u, int axis, const float *left, const float *middle, const float *right, float *out) const;
    size_t column() const { return size_t(rows_) * lanes_; }  // floats
    float *blurred(const Share &share, int u) {
        return blurred_.data() + (share.place + size_t(u - share.first)) * column();
    }

    const Order &order_;
    const Strength strength_;
    const Kernels &kernels_;
    int columns_ = 0, rows_ = 0;
    int lanes_ = 0;  // that there is memory for; 0 where there was not enough
    int unit_ = 1;   // by which the points' places are multiplied
    size_t size_ = 0, places_ = 0;
    std::vector<uint8_t> exists_;
    std::vector<std::vector<Run>> runs_;
    std::vector<int> reach_, settled_;  // of a tile: one past the last column touched; columns before it are complete
    std::vector<Share> shares_;
    Buffer<Vertices<2>> points_;
    std::vector<Vertices<2>> plain_;  // of all pixels, without normalisation
    Buffer<float> after_, blurred_, frozen_, nothing_, seam_;
};

}  // namespace crf
