// Planar YUV to packed RGB in single precision: within half a level of the exact value.
#include <algorithm>
#include <vector>

#include "dispatch.hpp"
#include "planes.hpp"

namespace planes {
namespace {

constexpr int kBlock = 64;  // pixels that are converted before they are interleaved

INLINE uint8_t level(float value) {  // value + 0.5 is at hand, so truncation rounds
    return uint8_t(int(std::min(std::max(value, 0.0f), 255.0f)));
}

// What chroma adds to R, G and B (with the offset and the half of rounding), for each chroma sample,
// then repeated over the 1 << shift pixels that it covers.
template <typename T>
INLINE void chroma_row(const T *RESTRICT u, const T *RESTRICT v, int samples, int shift, const ToRgb &map,
                       float *RESTRICT red, float *RESTRICT green, float *RESTRICT blue) {
    const float r0 = map.offset[0] + 0.5f, g0 = map.offset[1] + 0.5f, b0 = map.offset[2] + 0.5f;
    if (shift == 0) {
        for (int i = 0; i < samples; ++i) {
            red[i] = map.rv * v[i] + r0;
            green[i] = map.gu * u[i] + map.gv * v[i] + g0;
            blue[i] = map.bu * u[i] + b0;
        }
    } else {
        for (int i = 0; i < samples; ++i) {
            red[2 * i] = red[2 * i + 1] = map.rv * v[i] + r0;
            green[2 * i] = green[2 * i + 1] = map.gu * u[i] + map.gv * v[i] + g0;
            blue[2 * i] = blue[2 * i + 1] = map.bu * u[i] + b0;
        }
    }
}

template <typename T>
INLINE void block(const T *RESTRICT luma, const float *RESTRICT red, const float *RESTRICT green,
                  const float *RESTRICT blue, float scale, int n, uint8_t *RESTRICT out) {
    uint8_t r[kBlock], g[kBlock], b[kBlock];
    for (int i = 0; i < n; ++i) {
        const float y = scale * luma[i];
        r[i] = level(y + red[i]);
        g[i] = level(y + green[i]);
        b[i] = level(y + blue[i]);
    }
    for (int i = 0; i < n; ++i) {
        out[3 * i] = r[i];
        out[3 * i + 1] = g[i];
        out[3 * i + 2] = b[i];
    }
}

template <typename T>
INLINE void pixel_row(const T *luma, const float *red, const float *green, const float *blue, float scale, int width,
                      uint8_t *out) {
    int x = 0;
    for (; x + kBlock <= width; x += kBlock)
        block(luma + x, red + x, green + x, blue + x, scale, kBlock, out + 3 * x);
    if (x < width) block(luma + x, red + x, green + x, blue + x, scale, width - x, out + 3 * x);
}

template <typename T>
INLINE void convert(const Picture<const T> &from, const ToRgb &map, uint8_t *out, ptrdiff_t stride, float *scratch) {
    const int room = from.chroma_width() << from.shift_x;
    float *red = scratch, *green = red + room, *blue = green + room;
    int known = -1;
    for (int y = 0; y < from.height; ++y) {
        if (const int c = y >> from.shift_y; c != known) {
            chroma_row(from.row(1, c), from.row(2, c), from.chroma_width(), from.shift_x, map, red, green, blue);
            known = c;
        }
        pixel_row(from.row(0, y), red, green, blue, map.luma, from.width, out + y * stride);
    }
}

MULTIVERSION
void convert8(const Picture<const uint8_t> &from, const ToRgb &map, uint8_t *out, ptrdiff_t stride, float *scratch) {
    convert(from, map, out, stride, scratch);
}

MULTIVERSION
void convert16(const Picture<const uint16_t> &from, const ToRgb &map, uint8_t *out, ptrdiff_t stride, float *scratch) {
    convert(from, map, out, stride, scratch);
}

}  // namespace

template <typename T>
void to_rgb(const Picture<const T> &picture, const ToRgb &map, uint8_t *out, ptrdiff_t stride) {
    std::vector<float> scratch(3 * size_t(picture.chroma_width() << picture.shift_x));
    if constexpr (sizeof(T) == 1)
        convert8(picture, map, out, stride, scratch.data());
    else
        convert16(picture, map, out, stride, scratch.data());
}

template void to_rgb(const Picture<const uint8_t> &, const ToRgb &, uint8_t *, ptrdiff_t);
template void to_rgb(const Picture<const uint16_t> &, const ToRgb &, uint8_t *, ptrdiff_t);

}  // namespace planes
