// Pictures to a network's input, and scores to labels, where the network runs.
//
// Compiled by NVRTC for the GPU at hand.  Nothing here is beyond plain C++ but the qualifiers and the indices of a
// thread, so any C++ compiler builds the same arithmetic for a processor.  Products are not fused with sums: labels
// are those of the processor's kernels.

typedef unsigned char uint8;
typedef unsigned short uint16;

struct Planes {  // a picture as its decoder gives it
    const void *y, *u, *v;     // NV12 and P010: v is one sample after u; RGB: y alone
    int y_pitch, chroma_pitch; // samples from row to row
    int chroma_step;           // samples from one chroma sample to the next: 1 where planar, 2 where interleaved
    int wide;                  // samples of 16 bits
    int shift;                 // empty bits below a sample: 6 in P010
    float to_8_bit;            // a sample times this is on the scale of 8 bits
    int log2_chroma_w, log2_chroma_h;
    int height, width;
};

struct Target {  // what a network takes: one picture
    void *out;
    int height, width;                  // of the input
    int picture_height, picture_width;  // of the picture in its top left corner; its edge goes on from there
    int kind;                           // 0: bytes, 1: half precision, 2: single precision
    int planar;                         // 3×H×W, else H×W×3
    int reversed;                       // BGR
    float matrix[12];                   // 3×4, from samples on the scale of 8 bits to levels 0 to 255
    float mean[3], scale[3];            // in the network's order; (level - mean) * scale, if not bytes
};

struct Labels {  // scores, and the labels that they give
    const float *scores;  // classes × score_height × score_width
    uint8 *out;
    int classes, score_height, score_width;
    int height, width, pitch;                  // of the labels
    double scale_y, offset_y, scale_x, offset_x;  // row i has its centre at score row scale_y · i + offset_y
};

struct Span {  // source samples that one target sample takes, along an axis
    int first, last;
    float first_weight, last_weight;  // of those between 1; all divided by their sum
    float sum;
};

// Shrinking takes the mean of what a pixel covers; enlarging goes linearly from centre to centre.
static __device__ Span span_of(int index, int target, int source) {
    Span span;
    const float step = float(source) / float(target);
    if (source >= target) {
        const float begin = index * step, end = begin + step;
        span.first = min(int(begin), source - 1);
        span.last = min(int(ceilf(end)) - 1, source - 1);
        span.first_weight = min(float(span.first + 1), end) - begin;
        span.last_weight = end - max(float(span.last), begin);
        if (span.last <= span.first) {
            span.last = span.first;
            span.first_weight = 1.0f;
            span.last_weight = 0.0f;
        }
        span.sum = span.first == span.last ? 1.0f : step;
    } else {
        const float at = min(max((index + 0.5f) * step - 0.5f, 0.0f), float(source - 1));
        span.first = int(at);
        span.last = min(span.first + 1, source - 1);
        span.last_weight = span.last > span.first ? at - span.first : 0.0f;
        span.first_weight = 1.0f - span.last_weight;
        span.sum = 1.0f;
    }
    return span;
}

static __device__ float weight_of(const Span &span, int at) {
    if (at == span.first) return span.first_weight;
    return at == span.last ? span.last_weight : 1.0f;
}

static __device__ float sample(const Planes &from, const void *plane, int at) {
    const int value = from.wide ? ((const uint16 *)plane)[at] >> from.shift : ((const uint8 *)plane)[at];
    return value * from.to_8_bit;
}

// Mean of a plane over a span of rows and one of columns, rounded to a whole sample.
static __device__ float mean_of(const Planes &from, const void *plane, int pitch, int step, const Span &rows,
                                const Span &columns) {
    float total = 0.0f;
    for (int y = rows.first; y <= rows.last; ++y) {
        float line = 0.0f;
        for (int x = columns.first; x <= columns.last; ++x)
            line += weight_of(columns, x) * sample(from, plane, y * pitch + x * step);
        total += weight_of(rows, y) * line;
    }
    return rintf(total / (rows.sum * columns.sum));
}

static __device__ uint16 half_bits(float value) {
#ifdef __CUDACC_RTC__
    uint16 bits;
    asm("{ cvt.rn.f16.f32 %0, %1; }" : "=h"(bits) : "f"(value));
    return bits;
#else
    return host_half_bits(value);
#endif
}

static __device__ void put(const Target &to, int y, int x, const float *levels) {
    for (int channel = 0; channel < 3; ++channel) {
        const float level = min(max(levels[to.reversed ? 2 - channel : channel], 0.0f), 255.0f);
        const int pixel = y * to.width + x;
        const int at = to.planar ? channel * to.height * to.width + pixel : 3 * pixel + channel;
        const float whole = float(int(level + 0.5f));
        const float value = (whole - to.mean[channel]) * to.scale[channel];
        if (to.kind == 0)
            ((uint8 *)to.out)[at] = uint8(whole);
        else if (to.kind == 1)
            ((uint16 *)to.out)[at] = half_bits(value);
        else
            ((float *)to.out)[at] = value;
    }
}

// One thread a pixel of the network's input.  Where nothing is scaled, a chroma sample holds for all pixels that it covers.
extern "C" __global__ void prepare_yuv(Planes from, Target to) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= to.width || y >= to.height) return;
    const int row = min(y, to.picture_height - 1), column = min(x, to.picture_width - 1);
    float yuv[3];
    if (to.picture_height == from.height && to.picture_width == from.width) {
        const int chroma = (row >> from.log2_chroma_h) * from.chroma_pitch +
                           (column >> from.log2_chroma_w) * from.chroma_step;
        yuv[0] = sample(from, from.y, row * from.y_pitch + column);
        yuv[1] = sample(from, from.u, chroma);
        yuv[2] = sample(from, from.v, chroma);
    } else {
        const int chroma_height = (from.height + (1 << from.log2_chroma_h) - 1) >> from.log2_chroma_h;
        const int chroma_width = (from.width + (1 << from.log2_chroma_w) - 1) >> from.log2_chroma_w;
        const Span rows = span_of(row, to.picture_height, from.height);
        const Span columns = span_of(column, to.picture_width, from.width);
        const Span chroma_rows = span_of(row, to.picture_height, chroma_height);
        const Span chroma_columns = span_of(column, to.picture_width, chroma_width);
        yuv[0] = mean_of(from, from.y, from.y_pitch, 1, rows, columns);
        yuv[1] = mean_of(from, from.u, from.chroma_pitch, from.chroma_step, chroma_rows, chroma_columns);
        yuv[2] = mean_of(from, from.v, from.chroma_pitch, from.chroma_step, chroma_rows, chroma_columns);
    }
    float levels[3];
    for (int channel = 0; channel < 3; ++channel) {
        const float *m = to.matrix + 4 * channel;
        levels[channel] = m[0] * yuv[0] + m[1] * yuv[1] + m[2] * yuv[2] + m[3];
    }
    put(to, y, x, levels);
}

// The same of a picture that is RGB already, H×W×3; the matrix is not used.
extern "C" __global__ void prepare_rgb(Planes from, Target to) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= to.width || y >= to.height) return;
    const int row = min(y, to.picture_height - 1), column = min(x, to.picture_width - 1);
    const Span rows = span_of(row, to.picture_height, from.height);
    const Span columns = span_of(column, to.picture_width, from.width);
    float levels[3];
    for (int channel = 0; channel < 3; ++channel)
        levels[channel] = mean_of(from, (const uint8 *)from.y + channel, from.y_pitch, 3, rows, columns);
    put(to, y, x, levels);
}

struct Place {  // of a pixel between two score cells
    int cell;
    float weight;  // of the farther one
};

static __device__ Place place_of(int index, double scale, double offset, int scores) {
    const double at = min(max(scale * index + offset, 0.0), double(scores - 1));
    Place place;
    place.cell = min(int(at), max(scores - 2, 0));
    place.weight = float(at - place.cell);
    return place;
}

// One thread a pixel: its scores are interpolated class by class, and the best is kept, the lowest where two are equal.
extern "C" __global__ void label(Labels work) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= work.width || y >= work.height) return;
    const Place down = place_of(y, work.scale_y, work.offset_y, work.score_height);
    const Place across = place_of(x, work.scale_x, work.offset_x, work.score_width);
    const int right = work.score_width > 1 ? 1 : 0, below = work.score_height > 1 ? work.score_width : 0;
    const float up = 1.0f - down.weight, near = 1.0f - across.weight;
    const float *corner = work.scores + down.cell * work.score_width + across.cell;
    float best = 0.0f;
    int winner = 0;
    for (int c = 0; c < work.classes; ++c, corner += work.score_height * work.score_width) {
        const float left = corner[0] * up + corner[below] * down.weight;
        const float other = corner[right] * up + corner[below + right] * down.weight;
        const float value = left * near + other * across.weight;
        if (c == 0 || value > best) {
            best = value;
            winner = c;
        }
    }
    work.out[y * work.pitch + x] = uint8(winner);
}
