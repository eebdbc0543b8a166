// Colours laid over planes.  Labels come in large patches, so the picture is taken in small blocks:
// one whose pixels share a label needs no table and no sums, and one that shows through is a copy.
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "dispatch.hpp"
#include "planes.hpp"

namespace planes {
namespace {

constexpr int kBlock = 32;  // pixels across; even, so that a block covers whole chroma samples

template <typename T>
constexpr int kShift = sizeof(T) == 1 ? 8 : 14;

// One label over n samples of one plane.  8-bit samples stay within 16 bits: twice as many a register.
template <typename T>
INLINE void blend(const T *RESTRICT from, T *RESTRICT to, int n, uint32_t keep, uint32_t add) {
    using Wide = std::conditional_t<sizeof(T) == 1, uint16_t, uint32_t>;
    const Wide weight = Wide(keep), rest = Wide(add + one<T>() / 2);
    for (int i = 0; i < n; ++i) to[i] = T(Wide(Wide(from[i] * weight) + rest) >> kShift<T>);
}

INLINE bool same_label(const uint8_t *labels, int n, uint8_t label) {
    uint8_t differs = 0;
    for (int i = 0; i < n; ++i) differs |= uint8_t(labels[i] ^ label);
    return differs == 0;
}

// Rows [y, y + rows) × columns [x, x + n): all of one chroma row (two luma rows in 4:2:0).
template <typename T, int SX, int SY>
INLINE void mixed_block(const Picture<const T> &from, const uint8_t *labels, ptrdiff_t stride, const Paint *paint,
                        const Picture<T> &to, int x, int y, int rows, int n) {
    constexpr int most = (kBlock >> SX) + 1;
    uint32_t keep[most] = {}, add_u[most] = {}, add_v[most] = {};
    for (int r = 0; r < rows; ++r) {
        const uint8_t *RESTRICT label = labels + (y + r) * stride + x;
        const T *RESTRICT in = from.row(0, y + r) + x;
        T *RESTRICT out = to.row(0, y + r) + x;
        for (int i = 0; i < n; ++i) {
            const Paint &p = paint[label[i]];
            out[i] = T((in[i] * p.keep + p.add[0] + one<T>() / 2) >> kShift<T>);
            keep[i >> SX] += p.keep;
            add_u[i >> SX] += p.add[1];
            add_v[i >> SX] += p.add[2];
        }
    }
    const int samples = (n + (1 << SX) - 1) >> SX, cx = x >> SX, cy = y >> SY;
    const T *RESTRICT u = from.row(1, cy) + cx, *RESTRICT v = from.row(2, cy) + cx;
    T *RESTRICT to_u = to.row(1, cy) + cx, *RESTRICT to_v = to.row(2, cy) + cx;
    for (int i = 0; i < samples; ++i) {
        const int columns = std::min(1 << SX, n - (i << SX));  // one at an odd right edge
        const int shift = kShift<T> + (columns == 2) + (rows == 2);
        const uint32_t half = 1u << (shift - 1);
        to_u[i] = T((u[i] * keep[i] + add_u[i] + half) >> shift);
        to_v[i] = T((v[i] * keep[i] + add_v[i] + half) >> shift);
    }
}

template <typename T, int SX, int SY>
INLINE void block(const Picture<const T> &from, const uint8_t *labels, ptrdiff_t stride, const Paint *paint,
                  const Picture<T> &to, int x, int y, int rows, int n) {
    const uint8_t *corner = labels + y * stride + x;
    bool uniform = same_label(corner, n, *corner);
    if (SY && rows == 2) uniform = uniform && same_label(corner + stride, n, *corner);
    if (!uniform) {
        mixed_block<T, SX, SY>(from, labels, stride, paint, to, x, y, rows, n);
        return;
    }
    const Paint &p = paint[*corner];
    const int samples = (n + (1 << SX) - 1) >> SX, cx = x >> SX, cy = y >> SY;
    if (p.keep == one<T>()) {
        for (int r = 0; r < rows; ++r) std::memmove(to.row(0, y + r) + x, from.row(0, y + r) + x, n * sizeof(T));
        for (int c = 1; c < 3; ++c) std::memmove(to.row(c, cy) + cx, from.row(c, cy) + cx, samples * sizeof(T));
        return;
    }
    for (int r = 0; r < rows; ++r) blend(from.row(0, y + r) + x, to.row(0, y + r) + x, n, p.keep, p.add[0]);
    for (int c = 1; c < 3; ++c) blend(from.row(c, cy) + cx, to.row(c, cy) + cx, samples, p.keep, p.add[c]);
}

template <typename T, int SX, int SY>
INLINE void paint_all(const Picture<const T> &from, const uint8_t *labels, ptrdiff_t stride, const Paint *paint,
                      const Picture<T> &to) {
    for (int y = 0; y < from.height; y += 1 << SY) {
        const int rows = std::min(1 << SY, from.height - y);
        int x = 0;
        for (; x + kBlock <= from.width; x += kBlock)
            block<T, SX, SY>(from, labels, stride, paint, to, x, y, rows, kBlock);
        if (x < from.width) block<T, SX, SY>(from, labels, stride, paint, to, x, y, rows, from.width - x);
    }
}

template <typename T>
INLINE void by_layout(const Picture<const T> &from, const uint8_t *labels, ptrdiff_t stride, const Paint *paint,
                      const Picture<T> &to) {
    if (from.shift_x && from.shift_y)
        paint_all<T, 1, 1>(from, labels, stride, paint, to);
    else if (from.shift_x)
        paint_all<T, 1, 0>(from, labels, stride, paint, to);
    else if (from.shift_y)
        paint_all<T, 0, 1>(from, labels, stride, paint, to);
    else
        paint_all<T, 0, 0>(from, labels, stride, paint, to);
}

MULTIVERSION
void overlay8(const Picture<const uint8_t> &from, const uint8_t *labels, ptrdiff_t stride, const Paint *paint,
              const Picture<uint8_t> &to) {
    by_layout(from, labels, stride, paint, to);
}

MULTIVERSION
void overlay16(const Picture<const uint16_t> &from, const uint8_t *labels, ptrdiff_t stride, const Paint *paint,
               const Picture<uint16_t> &to) {
    by_layout(from, labels, stride, paint, to);
}

template <typename T>
INLINE void composite_rows(T *plane, ptrdiff_t stride, int height, int width, const uint16_t *keep,
                           const uint32_t *add) {
    for (int y = 0; y < height; ++y, plane += stride, keep += width, add += width) {
        T *RESTRICT row = plane;
        const uint16_t *RESTRICT k = keep;
        const uint32_t *RESTRICT a = add;
        for (int x = 0; x < width; ++x) row[x] = T((row[x] * uint32_t(k[x]) + a[x] + one<T>() / 2) >> kShift<T>);
    }
}

MULTIVERSION
void composite8(uint8_t *plane, ptrdiff_t stride, int height, int width, const uint16_t *keep, const uint32_t *add) {
    composite_rows(plane, stride, height, width, keep, add);
}

MULTIVERSION
void composite16(uint16_t *plane, ptrdiff_t stride, int height, int width, const uint16_t *keep, const uint32_t *add) {
    composite_rows(plane, stride, height, width, keep, add);
}

}  // namespace

template <typename T>
void composite(T *plane, ptrdiff_t stride, int height, int width, const uint16_t *keep, const uint32_t *add) {
    if constexpr (sizeof(T) == 1)
        composite8(plane, stride, height, width, keep, add);
    else
        composite16(plane, stride, height, width, keep, add);
}

template void composite(uint8_t *, ptrdiff_t, int, int, const uint16_t *, const uint32_t *);
template void composite(uint16_t *, ptrdiff_t, int, int, const uint16_t *, const uint32_t *);

template <typename T>
void overlay(const Picture<const T> &from, const uint8_t *labels, ptrdiff_t label_stride, const Paint *paint,
             const Picture<T> &to) {
    if constexpr (sizeof(T) == 1)
        overlay8(from, labels, label_stride, paint, to);
    else
        overlay16(from, labels, label_stride, paint, to);
}

template void overlay(const Picture<const uint8_t> &, const uint8_t *, ptrdiff_t, const Paint *,
                      const Picture<uint8_t> &);
template void overlay(const Picture<const uint16_t> &, const uint8_t *, ptrdiff_t, const Paint *,
                      const Picture<uint16_t> &);

}  // namespace planes
