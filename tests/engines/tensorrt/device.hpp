// A processor that stands for a GPU: the kernels of pixels.cu, a thread after the other.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

struct Index {
    unsigned x, y, z;
};
static thread_local Index blockIdx, blockDim, threadIdx;
#define __global__
#define __device__
using std::max;
using std::min;

static unsigned short host_half_bits(float value) {
    const _Float16 half = value;
    unsigned short bits;
    std::memcpy(&bits, &half, sizeof bits);
    return bits;
}

#include PIXELS

template <typename Kernel>
static void everywhere(unsigned across, unsigned down, unsigned columns, unsigned rows, Kernel kernel) {
    blockDim = {columns, rows, 1};
    for (unsigned by = 0; by < down; ++by)
        for (unsigned bx = 0; bx < across; ++bx)
            for (unsigned ty = 0; ty < rows; ++ty)
                for (unsigned tx = 0; tx < columns; ++tx) {
                    blockIdx = {bx, by, 0};
                    threadIdx = {tx, ty, 0};
                    kernel();
                }
}

#define LAUNCHER(name, call)                                                                                  \
    extern "C" void launch_##name(unsigned across, unsigned down, unsigned columns, unsigned rows, void **p) { \
        everywhere(across, down, columns, rows, [&] { call; });                                               \
    }

LAUNCHER(prepare_yuv, prepare_yuv(*(Planes *)p[0], *(Target *)p[1]))
LAUNCHER(prepare_rgb, prepare_rgb(*(Planes *)p[0], *(Target *)p[1]))
LAUNCHER(label, label(*(Labels *)p[0]))

extern "C" size_t size_of(int which) {
    return which == 0 ? sizeof(Planes) : which == 1 ? sizeof(Target) : sizeof(Labels);
}

extern "C" size_t offset_of(int which) {  // of each struct's last field
    return which == 0 ? offsetof(Planes, width) : which == 1 ? offsetof(Target, scale) : offsetof(Labels, offset_x);
}
