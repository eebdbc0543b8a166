// Python's way into crf/model.hpp: checks, then the kernels without the GIL.
#include "arrays.hpp"
#include "bindings.hpp"
#include "crf/model.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <unistd.h>

#include <mutex>
#include <optional>
#include <stdexcept>

namespace {

namespace nb = nanobind;
using arrays::In;
using arrays::Out;
using arrays::refuse;

class Crf {
   public:
    Crf(int height, int width, int classes, double pos_w, double pos_xy, double bi_w, double bi_xy, double bi_rgb,
        bool symmetric, const std::string &mode, int threads, const std::string &level)
        : height_(height), width_(width), classes_(classes) {
        if (height < 1 || width < 1 || height > 65535 || width > 65535) refuse("picture", "sides are 1 to 65535");
        if (int64_t(height) * width > (int64_t(1) << 27)) refuse("picture", "more than 2^27 pixels");
        if (classes < 1 || classes > 255) refuse("classes", "are 1 to 255");
        if (threads < 1 || threads > 256) refuse("threads", "are 1 to 256");
        for (double w : {pos_w, bi_w})
            if (!(w >= 0 && w <= 1e6)) refuse("weights", "are 0 to 1e6");
        for (double s : {pos_xy, bi_xy, bi_rgb})
            if (!(s > 1e-30 && s < 1e30)) refuse("standard deviations", "too small, or too large");
        const crf::Energy energy{float(pos_w), float(pos_xy), float(bi_w), float(bi_xy), float(bi_rgb), symmetric};
        const crf::Kernels *kernels = crf::kernels_named(level.c_str());
        if (!kernels) refuse("level", "this processor has no " + level);
        const auto how = crf::mode_named(mode.c_str());
        if (!how) refuse("mode", "is exact, pruned or live");
        nb::gil_scoped_release unlocked;
        try {
            model_.emplace(height, width, classes, energy, *how, threads, *kernels);
        } catch (const std::range_error &error) {
            throw nb::value_error(error.what());
        }
    }

    nb::tuple infer(const In &image, const In &scores, double scale_y, double offset_y, double scale_x, double offset_x,
               int iterations, const std::optional<Out> &labels, const std::optional<Out> &marginals) {
        const uint8_t *levels = arrays::pointer<const uint8_t>(image, "image", 3, 3);
        arrays::need_shape(image, "image", {size_t(height_), size_t(width_), 3});
        const auto from = arrays::scores(scores);
        if (from.classes != classes_) refuse("scores", "have another number of classes");
        const auto y = arrays::map(scale_y, offset_y, "rows"), x = arrays::map(scale_x, offset_x, "columns");
        if (iterations < 0 || iterations > 1000) refuse("iterations", "are 0 to 1000");
        uint8_t *to = nullptr;
        ptrdiff_t stride = 0;
        if (labels) {
            const auto plane = arrays::plane<uint8_t>(*labels, "labels");
            arrays::need_shape(*labels, "labels", {size_t(height_), size_t(width_)});
            to = plane.data;
            stride = plane.stride;
        }
        float *q = nullptr;
        if (marginals) {
            q = arrays::pointer<float>(*marginals, "marginals", 3, 3);
            arrays::need_shape(*marginals, "marginals", {size_t(classes_), size_t(height_), size_t(width_)});
        }
        std::optional<crf::Stats> stats;
        {
            const AtWork here(*this);
            nb::gil_scoped_release unlocked;
            const std::lock_guard<std::mutex> alone(busy_);
            stats = model_->infer(levels, from, y, x, iterations, to, stride, q);
        }
        if (!stats) throw nb::value_error("logits contain NaN or infinite values");
        return nb::make_tuple(stats->classes, stats->vertices, stats->bytes);
    }

   private:
    // Counted with the GIL held, as it is by os.fork(): a forked process knows whether a thread that it
    // does not have was at work, and would never give `busy_` back.
    class AtWork {
       public:
        explicit AtWork(Crf &crf) : crf_(crf) {
            if (getpid() != crf.home_) {
                if (crf.at_work_)
                    throw std::runtime_error("this CRF was at work in another thread when the process was forked: make a new one");
                crf.home_ = getpid();
            }
            ++crf.at_work_;
        }
        ~AtWork() { --crf_.at_work_; }
        AtWork(const AtWork &) = delete;
        AtWork &operator=(const AtWork &) = delete;

       private:
        Crf &crf_;
    };

    const int height_, width_, classes_;
    pid_t home_ = getpid();
    int at_work_ = 0;
    std::mutex busy_;
    std::optional<crf::Model> model_;
};

}  // namespace

void bind_crf(nb::module_ &m) {
    using namespace nb::literals;
    nb::class_<Crf>(m, "DenseCRF")
        .def(nb::init<int, int, int, double, double, double, double, double, bool, const std::string &, int,
                      const std::string &>(),
             "height"_a, "width"_a, "classes"_a, "pos_w"_a, "pos_xy"_a, "bi_w"_a, "bi_xy"_a, "bi_rgb"_a, "symmetric"_a,
             "mode"_a, "threads"_a, "level"_a)
        .def("infer", &Crf::infer, "image"_a.noconvert(), "scores"_a.noconvert(), "scale_y"_a, "offset_y"_a, "scale_x"_a,
             "offset_x"_a, "iterations"_a, "labels"_a.noconvert().none(), "marginals"_a.noconvert().none());
    m.def("crf_levels", [] {
        nb::list names;
        for (const char *name : {"portable", "avx2", "avx512"})
            if (crf::kernels_named(name)) names.append(name);
        return names;
    });
}
