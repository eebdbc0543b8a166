#include "kernels.inl"
#include "simplex.inl"

namespace crf {

const Kernels &portable_kernels() {
    static const Kernels kernels{"portable", simplices5, simplices2, blur, blur_apart, pass, unary};
    return kernels;
}

}  // namespace crf
