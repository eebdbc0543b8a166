// Python's way to the kernels on planar pictures: checks, then the kernel without the GIL.
#include "arrays.hpp"
#include "bindings.hpp"
#include "planes.hpp"

#include <cmath>

namespace {

namespace nb = nanobind;
using arrays::In;
using arrays::Out;
using arrays::refuse;

template <typename T, typename Array>
planes::Picture<T> take_picture(const Array &y, const Array &u, const Array &v, int shift_x, int shift_y) {
    if (shift_x < 0 || shift_x > 1 || shift_y < 0 || shift_y > 1) refuse("shift", "must be 0 or 1");
    const auto luma = arrays::plane<T>(y, "y");
    planes::Picture<T> picture{{luma.data, nullptr, nullptr}, {luma.stride, 0, 0}, luma.height, luma.width,
                               shift_x, shift_y};
    const Array *chroma[2] = {&u, &v};
    for (int p = 1; p < 3; ++p) {
        const char *name = p == 1 ? "u" : "v";
        const auto plane = arrays::plane<T>(*chroma[p - 1], name);
        arrays::need_shape(*chroma[p - 1], name, {size_t(picture.chroma_height()), size_t(picture.chroma_width())});
        picture.plane[p] = plane.data;
        picture.stride[p] = plane.stride;
    }
    return picture;
}

bool is_wide(const In &array) { return array.dtype() == nb::dtype<uint16_t>(); }

void yuv_to_rgb(const In &y, const In &u, const In &v, int shift_x, int shift_y, const In &matrix, const Out &out) {
    const double *m = arrays::pointer<const double>(matrix, "matrix", 2, 2);
    arrays::need_shape(matrix, "matrix", {3, 4});
    for (int i = 0; i < 12; ++i)
        if (!(std::fabs(m[i]) < 1e6)) refuse("matrix", "holds numbers that make no sense");
    const planes::ToRgb map{float(m[0]), float(m[2]), float(m[5]), float(m[6]), float(m[9]),
                            {float(m[3]), float(m[7]), float(m[11])}};
    uint8_t *to = arrays::pointer<uint8_t>(out, "out", 3, 2);
    const auto run = [&](auto sample) {
        using T = decltype(sample);
        const auto picture = take_picture<const T>(y, u, v, shift_x, shift_y);
        arrays::need_shape(out, "out", {size_t(picture.height), size_t(picture.width), 3});
        nb::gil_scoped_release unlocked;
        planes::to_rgb<T>(picture, map, to, out.stride(0));
    };
    is_wide(y) ? run(uint16_t{}) : run(uint8_t{});
}

void overlay(const In &y, const In &u, const In &v, int shift_x, int shift_y, const In &labels, const In &paint,
             const Out &out_y, const Out &out_u, const Out &out_v) {
    const auto label = arrays::plane<const uint8_t>(labels, "labels");
    const uint32_t *words = arrays::pointer<const uint32_t>(paint, "paint", 2, 2);
    arrays::need_shape(paint, "paint", {256, 4});
    planes::Paint table[256];
    for (int i = 0; i < 256; ++i) table[i] = {words[4 * i], {words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]}};
    const auto run = [&](auto sample) {
        using T = decltype(sample);
        const uint32_t most = planes::one<T>() * (sizeof(T) == 1 ? 255u : 1023u);
        for (const auto &entry : table)
            if (entry.keep > planes::one<T>() || entry.add[0] > most || entry.add[1] > most || entry.add[2] > most)
                refuse("paint", "holds more than one whole colour");
        const auto from = take_picture<const T>(y, u, v, shift_x, shift_y);
        const auto to = take_picture<T>(out_y, out_u, out_v, shift_x, shift_y);
        if (to.height != from.height || to.width != from.width) refuse("out", "does not have the picture's size");
        if (label.height != from.height || label.width != from.width)
            refuse("labels", "do not have the picture's size");
        nb::gil_scoped_release unlocked;
        planes::overlay<T>(from, label.data, label.stride, table, to);
    };
    is_wide(y) ? run(uint16_t{}) : run(uint8_t{});
}

void unfold(const In &luma, const In &chroma, int shift_x, int shift_y, const Out &y, const Out &u, const Out &v) {
    const auto to = take_picture<uint16_t>(y, u, v, shift_x, shift_y);
    const auto from = arrays::plane<const uint16_t>(luma, "luma");
    const auto pairs = arrays::plane<const uint16_t>(chroma, "chroma");
    arrays::need_shape(luma, "luma", {size_t(to.height), size_t(to.width)});
    arrays::need_shape(chroma, "chroma", {size_t(to.chroma_height()), 2 * size_t(to.chroma_width())});
    nb::gil_scoped_release unlocked;
    planes::unfold({from.data, pairs.data, from.stride, pairs.stride}, to);
}

void composite(const Out &plane, const In &keep, const In &add) {
    const auto run = [&](auto sample) {
        using T = decltype(sample);
        const auto on = arrays::plane<T>(plane, "plane");
        const auto *k = arrays::pointer<const uint16_t>(keep, "keep", 2, 2);
        const auto *a = arrays::pointer<const uint32_t>(add, "add", 2, 2);
        arrays::need_shape(keep, "keep", {size_t(on.height), size_t(on.width)});
        arrays::need_shape(add, "add", {size_t(on.height), size_t(on.width)});
        nb::gil_scoped_release unlocked;
        planes::composite<T>(on.data, on.stride, on.height, on.width, k, a);
    };
    plane.dtype() == nb::dtype<uint16_t>() ? run(uint16_t{}) : run(uint8_t{});
}

}  // namespace

void bind_planes(nb::module_ &m) {
    using namespace nb::literals;
    m.def("yuv_to_rgb", &yuv_to_rgb, "y"_a.noconvert(), "u"_a.noconvert(), "v"_a.noconvert(), "shift_x"_a, "shift_y"_a,
          "matrix"_a.noconvert(), "out"_a.noconvert());
    m.def("overlay", &overlay, "y"_a.noconvert(), "u"_a.noconvert(), "v"_a.noconvert(), "shift_x"_a, "shift_y"_a,
          "labels"_a.noconvert(), "paint"_a.noconvert(), "out_y"_a.noconvert(), "out_u"_a.noconvert(),
          "out_v"_a.noconvert());
    m.def("unfold", &unfold, "luma"_a.noconvert(), "chroma"_a.noconvert(), "shift_x"_a, "shift_y"_a,
          "out_y"_a.noconvert(), "out_u"_a.noconvert(), "out_v"_a.noconvert());
    m.def("composite", &composite, "plane"_a.noconvert(), "keep"_a.noconvert(), "add"_a.noconvert());
}
