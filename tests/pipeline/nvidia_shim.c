/* A stand-in for NVIDIA's driver, as far as libav asks it: libcuda, libnvcuvid and libnvidia-encode in one.
 *
 * Memory of the device is the process's own.  The decoder does not decode: the nth picture that it is given comes out
 * as the nth of the file NVDEC_PICTURES (whole coded pictures as NV12 or P016, one after the other).  So real libav
 * finds its way to a device and back: opening it, asking what it can, its surfaces, their order, copying them down.
 * NVDEC_REFUSES=BITS refuses streams of that depth, as a chip does that cannot decode them; NVDEC_FAILS_AT=N fails
 * from the nth picture on.  CUDA_DEVICES=0 is a driver without a GPU; CUDA_CONTEXTS=N has memory for N contexts, over
 * the life of the process.  There is no encoder, as on data-centre chips.
 *
 * It proves nothing of NVDEC's own pictures, of its timing, nor of what a driver does with several contexts.
 * Signatures and structures are those of CUDA 12 and Video Codec SDK 11 to 13, as far as they are used.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int CUresult;
typedef unsigned long ulong_t;
typedef uintptr_t device_t;

enum { SUCCESS = 0, INVALID = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, NOT_SUPPORTED = 801 };

static int number_of(const char *name, int otherwise)
{
    const char *value = getenv(name);
    return value ? atoi(value) : otherwise;
}

/* ---- libcuda */

CUresult cuInit(unsigned flags) { return flags == 0 && number_of("CUDA_DEVICES", 1) ? SUCCESS : NO_DEVICE; }
CUresult cuDriverGetVersion(int *version) { *version = 12080; return SUCCESS; }
CUresult cuDeviceGetCount(int *count) { *count = 1; return SUCCESS; }
CUresult cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal == 0 ? SUCCESS : INVALID; }
CUresult cuDeviceGetAttribute(int *value, int attribute, int device)
{
    (void)attribute; (void)device;
    *value = 256; /* of a texture's alignment, which is all that is asked */
    return SUCCESS;
}
CUresult cuDeviceGetName(char *name, int size, int device)
{
    (void)device;
    snprintf(name, size, "stand-in");
    return SUCCESS;
}
CUresult cuDeviceComputeCapability(int *major, int *minor, int device)
{
    (void)device;
    *major = 9, *minor = 0;
    return SUCCESS;
}

static __thread void *current;

CUresult cuCtxCreate_v2(void **context, unsigned flags, int device)
{
    static int made;
    (void)flags; (void)device;
    if (++made > number_of("CUDA_CONTEXTS", 1 << 30))
        return OUT_OF_MEMORY;
    *context = current = malloc(1);
    return SUCCESS;
}
CUresult cuCtxGetCurrent(void **context) { *context = current; return SUCCESS; }
CUresult cuCtxPushCurrent_v2(void *context) { current = context; return SUCCESS; }
CUresult cuCtxPopCurrent_v2(void **context)
{
    if (context)
        *context = current;
    current = NULL;
    return SUCCESS;
}
CUresult cuCtxDestroy_v2(void *context) { free(context); return SUCCESS; }
CUresult cuCtxGetDevice(int *device) { *device = 0; return SUCCESS; }
CUresult cuStreamSynchronize(void *stream) { (void)stream; return SUCCESS; }
CUresult cuGetErrorName(CUresult error, const char **name) { (void)error; *name = "CUDA_ERROR"; return SUCCESS; }
CUresult cuGetErrorString(CUresult error, const char **told) { (void)error; *told = "refused"; return SUCCESS; }

CUresult cuMemAlloc_v2(device_t *memory, size_t bytes)
{
    *memory = (device_t)calloc(1, bytes);
    return *memory ? SUCCESS : OUT_OF_MEMORY;
}
CUresult cuMemFree_v2(device_t memory) { free((void *)memory); return SUCCESS; }

struct copy_2d {
    size_t src_x, src_y;
    int src_type;
    const void *src_host;
    device_t src_device;
    void *src_array;
    size_t src_pitch;
    size_t dst_x, dst_y;
    int dst_type;
    void *dst_host;
    device_t dst_device;
    void *dst_array;
    size_t dst_pitch;
    size_t bytes, rows;
};

CUresult cuMemcpy2D_v2(const struct copy_2d *copy)
{
    enum { HOST = 1 };
    const char *from = copy->src_type == HOST ? copy->src_host : (const char *)copy->src_device;
    char *to = copy->dst_type == HOST ? copy->dst_host : (char *)copy->dst_device;
    for (size_t row = 0; row < copy->rows; row++)
        memcpy(to + (copy->dst_y + row) * copy->dst_pitch + copy->dst_x,
               from + (copy->src_y + row) * copy->src_pitch + copy->src_x, copy->bytes);
    return SUCCESS;
}
CUresult cuMemcpy2DAsync_v2(const struct copy_2d *copy, void *stream) { (void)stream; return cuMemcpy2D_v2(copy); }

/* What libav looks up and never calls on its way. */
#define ABSENT(name) CUresult name(void) { abort(); }
ABSENT(cuCtxSetLimit) ABSENT(cuMemAllocPitch_v2) ABSENT(cuMemAllocManaged) ABSENT(cuMemsetD8Async) ABSENT(cuMemcpy)
ABSENT(cuMemcpyAsync) ABSENT(cuMemcpyHtoD_v2) ABSENT(cuMemcpyHtoDAsync_v2) ABSENT(cuMemcpyDtoH_v2)
ABSENT(cuMemcpyDtoHAsync_v2) ABSENT(cuMemcpyDtoD_v2) ABSENT(cuMemcpyDtoDAsync_v2) ABSENT(cuDevicePrimaryCtxRetain)
ABSENT(cuDevicePrimaryCtxRelease) ABSENT(cuDevicePrimaryCtxSetFlags) ABSENT(cuDevicePrimaryCtxGetState)
ABSENT(cuDevicePrimaryCtxReset) ABSENT(cuStreamCreate) ABSENT(cuStreamQuery) ABSENT(cuStreamDestroy_v2)
ABSENT(cuStreamAddCallback) ABSENT(cuStreamWaitEvent) ABSENT(cuEventCreate) ABSENT(cuEventDestroy_v2)
ABSENT(cuEventSynchronize) ABSENT(cuEventQuery) ABSENT(cuEventRecord) ABSENT(cuLaunchKernel) ABSENT(cuLinkCreate)
ABSENT(cuLinkAddData) ABSENT(cuLinkComplete) ABSENT(cuLinkDestroy) ABSENT(cuModuleLoadData) ABSENT(cuModuleUnload)
ABSENT(cuModuleGetFunction) ABSENT(cuModuleGetGlobal) ABSENT(cuTexObjectCreate) ABSENT(cuTexObjectDestroy)
ABSENT(cuGLGetDevices_v2) ABSENT(cuGraphicsGLRegisterImage) ABSENT(cuGraphicsUnregisterResource)
ABSENT(cuGraphicsMapResources) ABSENT(cuGraphicsUnmapResources) ABSENT(cuGraphicsSubResourceGetMappedArray)
ABSENT(cuGraphicsResourceGetMappedPointer_v2) ABSENT(cuArrayCreate_v2) ABSENT(cuArray3DCreate_v2)
ABSENT(cuArrayDestroy) ABSENT(cuEGLStreamProducerConnect) ABSENT(cuEGLStreamProducerDisconnect)
ABSENT(cuEGLStreamConsumerDisconnect) ABSENT(cuEGLStreamProducerPresentFrame) ABSENT(cuEGLStreamProducerReturnFrame)

/* ---- libnvcuvid */

struct caps {
    int codec, chroma;
    unsigned bits_above_8, reserved[3];
    unsigned char supported, engines;
    unsigned short formats;
    unsigned max_width, max_height, max_blocks;
    unsigned short min_width, min_height;
};

struct create_info {
    ulong_t width, height, surfaces;
    int codec, chroma;
    ulong_t flags, bits_above_8, intra_only, max_width, max_height, reserved;
    short area[4];
    int format, deinterlace;
    ulong_t target_width, target_height, outputs;
};

struct picture {
    int width_in_blocks, height_in_blocks, index, field, bottom, second_field;
};

struct decoder {
    size_t pitch, bytes, row_bytes, rows;
    unsigned surfaces;
    unsigned char *memory;
};

static long given, position; /* pictures, and bytes of the file that they were read from, so far */
static char last[4096];

CUresult cuvidGetDecoderCaps(struct caps *caps)
{
    caps->supported = (int)caps->bits_above_8 + 8 != number_of("NVDEC_REFUSES", 0) && caps->chroma == 1;
    caps->engines = 1;
    caps->formats = caps->bits_above_8 ? 2 : 1;
    caps->max_width = caps->max_height = 8192;
    caps->max_blocks = 8192 * 8192 / 256;
    caps->min_width = caps->min_height = 16;
    return SUCCESS;
}

CUresult cuvidCreateDecoder(struct decoder **made, struct create_info *info)
{
    struct decoder *decoder = calloc(1, sizeof *decoder);
    decoder->row_bytes = info->target_width * (info->bits_above_8 ? 2 : 1);
    decoder->pitch = (decoder->row_bytes + 511) & ~(size_t)511;
    decoder->rows = info->target_height / 2 * 3;
    decoder->bytes = decoder->pitch * decoder->rows;
    decoder->surfaces = info->surfaces;
    decoder->memory = calloc(decoder->surfaces, decoder->bytes);
    *made = decoder;
    return SUCCESS;
}

CUresult cuvidDestroyDecoder(struct decoder *decoder)
{
    free(decoder->memory);
    free(decoder);
    return SUCCESS;
}

CUresult cuvidDecodePicture(struct decoder *decoder, const struct picture *picture)
{
    const char *path = getenv("NVDEC_PICTURES");
    FILE *file = path ? fopen(path, "rb") : NULL;
    if (path && strcmp(path, last)) {
        given = position = 0;
        snprintf(last, sizeof last, "%s", path);
    }
    if (!file || (unsigned)picture->index >= decoder->surfaces || ++given >= number_of("NVDEC_FAILS_AT", 1 << 30)) {
        if (file)
            fclose(file);
        return INVALID;
    }
    unsigned char *to = decoder->memory + picture->index * decoder->bytes;
    int whole = !fseek(file, position, SEEK_SET);
    for (size_t row = 0; row < decoder->rows; row++)
        whole &= fread(to + row * decoder->pitch, 1, decoder->row_bytes, file) == decoder->row_bytes;
    position = ftell(file);
    fclose(file);
    return whole ? SUCCESS : INVALID;
}

CUresult cuvidMapVideoFrame64(struct decoder *decoder, int index, unsigned long long *memory, unsigned *pitch, void *how)
{
    (void)how;
    *memory = (uintptr_t)(decoder->memory + index * decoder->bytes);
    *pitch = decoder->pitch;
    return SUCCESS;
}
CUresult cuvidUnmapVideoFrame64(struct decoder *decoder, unsigned long long memory)
{
    (void)decoder; (void)memory;
    return SUCCESS;
}
ABSENT(cuvidGetDecodeStatus) ABSENT(cuvidReconfigureDecoder) ABSENT(cuvidCtxLockCreate) ABSENT(cuvidCtxLockDestroy)
ABSENT(cuvidCtxLock) ABSENT(cuvidCtxUnlock) ABSENT(cuvidCreateVideoSource) ABSENT(cuvidCreateVideoSourceW)
ABSENT(cuvidDestroyVideoSource) ABSENT(cuvidSetVideoSourceState) ABSENT(cuvidGetVideoSourceState)
ABSENT(cuvidGetSourceVideoFormat) ABSENT(cuvidGetSourceAudioFormat) ABSENT(cuvidCreateVideoParser)
ABSENT(cuvidParseVideoData) ABSENT(cuvidDestroyVideoParser)

/* ---- libnvidia-encode */

struct encode_functions {
    uint32_t version, reserved;
    void *functions[318];
};
enum { OPEN_SESSION_EX = 29, NO_ENCODE_DEVICE = 1 };

static int refuse_session(void *parameters, void **encoder)
{
    (void)parameters; (void)encoder;
    return NO_ENCODE_DEVICE;
}
int NvEncodeAPIGetMaxSupportedVersion(uint32_t *version) { *version = 13 << 4; return 0; }
int NvEncodeAPICreateInstance(struct encode_functions *list)
{
    list->functions[OPEN_SESSION_EX] = (void *)refuse_session;
    return 0;
}
