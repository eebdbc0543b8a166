// Arrays at the border: every kernel checks here what Python hands it, and answers ValueError.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "upsample.hpp"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>

namespace arrays {

namespace nb = nanobind;

using In = nb::ndarray<nb::ro>;  // anything with the buffer or DLPack protocol, read only
using Out = nb::ndarray<>;       // the same, written to

[[noreturn]] inline void refuse(const char *name, const std::string &what) {
    throw nb::value_error((std::string(name) + ": " + what).c_str());
}

inline std::string shape_text(const size_t *shape, size_t ndim) {
    std::string text;
    for (size_t i = 0; i < ndim; ++i) text += (i ? "×" : "") + std::to_string(shape[i]);
    return text.empty() ? "no dimensions" : text;
}

// The array's memory as T, or ValueError; `contiguous` counts trailing axes that must be dense.
template <typename T, typename Array>
T *pointer(const Array &array, const char *name, size_t ndim, size_t contiguous) {
    if (array.device_type() != nb::device::cpu::value) refuse(name, "is not in the CPU's memory");
    if (array.dtype() != nb::dtype<std::remove_const_t<T>>()) refuse(name, "has the wrong type");
    if (array.ndim() != ndim)
        refuse(name, "has " + std::to_string(array.ndim()) + " dimensions, not " + std::to_string(ndim));
    int64_t dense = 1;
    for (size_t i = ndim; i-- > ndim - contiguous;) {
        if (array.shape(i) > 1 && array.stride(i) != dense) refuse(name, "is not contiguous");
        dense *= static_cast<int64_t>(array.shape(i));
    }
    const void *data = array.data();
    if (reinterpret_cast<uintptr_t>(data) % alignof(T)) refuse(name, "is not aligned");
    return static_cast<T *>(const_cast<void *>(data));
}

template <typename Array>
void need_shape(const Array &array, const char *name, std::initializer_list<size_t> shape) {
    size_t i = 0;
    bool same = array.ndim() == shape.size();
    for (size_t side : shape) same = same && array.shape(i++) == side;
    if (!same)
        refuse(name, "is " + shape_text(reinterpret_cast<const size_t *>(array.shape_ptr()), array.ndim()) + ", not " +
                         shape_text(shape.begin(), shape.size()));
}

// A picture plane: rows may lie apart, samples in a row may not.
template <typename T>
struct Plane {
    T *data;
    ptrdiff_t stride;  // in samples
    int height, width;
    T *row(int y) const { return data + y * stride; }
};

template <typename T, typename Array>
Plane<T> plane(const Array &array, const char *name) {
    T *data = pointer<T>(array, name, 2, 1);
    if (array.shape(0) < 1 || array.shape(1) < 1 || array.shape(0) > 65535 || array.shape(1) > 65535)
        refuse(name, "is " + std::to_string(array.shape(0)) + "×" + std::to_string(array.shape(1)));
    return {data, static_cast<ptrdiff_t>(array.stride(0)), static_cast<int>(array.shape(0)),
            static_cast<int>(array.shape(1))};
}

// Class scores and the way from pixels to them, as upsampling and the guided filter take them.
inline constexpr const char *kNotFinite = "scores: NaN, infinite or beyond 2^126";

inline upsample::Scores scores(const In &array) {
    const float *data = pointer<const float>(array, "scores", 3, 3);
    for (size_t i = 0; i < 3; ++i)
        if (array.shape(i) < 1 || array.shape(i) > (i ? 65535u : 255u))
            refuse("scores", "need 1 to 255 classes and sides of 1 to 65535");
    return {data, int(array.shape(0)), int(array.shape(1)), int(array.shape(2))};
}

inline upsample::Map map(double scale, double offset, const char *name) {
    if (!(scale >= 0 && scale <= 1e6 && std::fabs(offset) <= 1e6)) refuse(name, "not a rising map");
    return {scale, offset};
}

}  // namespace arrays
