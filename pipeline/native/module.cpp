// The Python face of the native kernels; the arithmetic is in its neighbours.
#include "bindings.hpp"

NB_MODULE(_native, m) {
    m.doc() = "Native kernels of the stream: plain arrays in, plain arrays out, the GIL released.";
    bind_upsample(m);
    bind_guided(m);
    bind_planes(m);
    bind_crf(m);
    bind_motion(m);
}
