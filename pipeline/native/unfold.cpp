// Pictures of ten bits with U and V in turn, as GPUs give them (P010 and its like), to planes.
#include "dispatch.hpp"
#include "planes.hpp"

namespace planes {
namespace {

constexpr int kEmptyBits = 6;  // below a sample

INLINE void luma_row(const uint16_t *RESTRICT from, int width, uint16_t *RESTRICT to) {
    for (int x = 0; x < width; ++x) to[x] = uint16_t(from[x] >> kEmptyBits);
}

INLINE void chroma_row(const uint16_t *RESTRICT from, int width, uint16_t *RESTRICT u, uint16_t *RESTRICT v) {
    for (int x = 0; x < width; ++x) {
        u[x] = uint16_t(from[2 * x] >> kEmptyBits);
        v[x] = uint16_t(from[2 * x + 1] >> kEmptyBits);
    }
}

}  // namespace

MULTIVERSION
void unfold(const Folded &from, const Picture<uint16_t> &to) {
    for (int y = 0; y < to.height; ++y) luma_row(from.luma + y * from.luma_stride, to.width, to.row(0, y));
    for (int y = 0; y < to.chroma_height(); ++y)
        chroma_row(from.chroma + y * from.chroma_stride, to.chroma_width(), to.row(1, y), to.row(2, y));
}

}  // namespace planes
