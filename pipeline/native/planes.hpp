// Planar YUV pictures: what the kernels on them share.
#pragma once

#include <cstddef>
#include <cstdint>

namespace planes {

// Rows may lie apart (stride in samples); samples are uint8_t, or uint16_t with 10 bits in use.
template <typename T>
struct Picture {
    T *plane[3];
    ptrdiff_t stride[3];
    int height, width;
    int shift_x, shift_y;  // chroma columns and rows are luma's shifted right by these, rounded up

    int chroma_width() const { return (width + (1 << shift_x) - 1) >> shift_x; }
    int chroma_height() const { return (height + (1 << shift_y) - 1) >> shift_y; }
    T *row(int p, int y) const { return plane[p] + y * stride[p]; }
};

// Luma, and U and V in turn, samples of ten bits in the upper bits; strides in samples.
struct Folded {
    const uint16_t *luma, *chroma;
    ptrdiff_t luma_stride, chroma_stride;
};

void unfold(const Folded &from, const Picture<uint16_t> &to);

struct ToRgb {  // levels 0–255 from samples: R = luma·Y + rv·V + offset[0], and so on
    float luma, rv, gu, gv, bu;
    float offset[3];
};

// RGB, `stride` bytes a row, each chroma sample repeated over the pixels that it covers.
template <typename T>
void to_rgb(const Picture<const T> &picture, const ToRgb &map, uint8_t *out, ptrdiff_t stride);

// How a label's colour is laid over the samples below: sample · keep + add, in units of 1 / one<T>().
struct Paint {
    uint32_t keep, add[3];
};

template <typename T>
constexpr uint32_t one() {  // 8-bit products must fit 16 bits; 10-bit ones deserve finer alphas
    return sizeof(T) == 1 ? 1u << 8 : 1u << 14;
}

// Lays the labels' colours (`paint`, 256 of them) over the picture; a chroma sample takes the mean of
// what the pixels that it covers would do to it.  `to` has the size of `from` and lies elsewhere.
template <typename T>
void overlay(const Picture<const T> &from, const uint8_t *labels, ptrdiff_t label_stride, const Paint *paint,
             const Picture<T> &to);

// A sprite laid over one plane, in place: sample · keep + add in units of 1 / one<T>().
template <typename T>
void composite(T *plane, ptrdiff_t stride, int height, int width, const uint16_t *keep, const uint32_t *add);

}  // namespace planes
