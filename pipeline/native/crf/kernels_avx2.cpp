#include "kernels.inl"
#include "simplex.inl"

namespace crf {

const Kernels &avx2_kernels() {
    static const Kernels kernels{"avx2", simplices5, simplices2, blur, blur_apart, pass, unary};
    return kernels;
}

}  // namespace crf
