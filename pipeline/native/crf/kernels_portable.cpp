#include "kernels.inl"

namespace crf {

const Kernels &portable_kernels() {
    static const Kernels kernels{lanes, portable_simplices5, portable_simplices2, blur,
                                 blur_run, pass, best_lanes, unary};
    return kernels;
}

}  // namespace crf
