/* A stand-in for libnvidia-encode that encodes H.264, losslessly and without any thought: every macroblock as I_PCM.
 *
 * It tells what it was asked for in the file NVENC_TOLD, a JSON object a line: one a session, one a picture.  As chips
 * do, it takes no picture of less than 145 columns.  NVENC_REFUSES=N refuses the nth session, as one does whose
 * sessions are used up.
 *
 * It shows that libav takes our options and what they become, that every picture comes out when it should, and that
 * what comes out is read; it proves nothing of NVENC's own pictures, their quality and size, nor of its speed.
 * Structures are those of Video Codec SDK 13.0, as far as they are used.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, NO_MEMORY = 10, INVALID_PARAM = 8, FORCE_IDR = 2, END = 8, PICTURE_P = 0, PICTURE_IDR = 3 };
enum { IYUV = 0x100, YV12 = 0x10 };

struct guid { uint32_t a; uint16_t b, c; uint8_t d[8]; };
static const struct guid H264 = { 0x6bc82762, 0x4e63, 0x4ca4, { 0xaa, 0x85, 0x1e, 0x50, 0xf3, 0x21, 0xf6, 0xbf } };

struct config {
    uint32_t version;
    struct guid profile;
    uint32_t gop_length;
    int32_t frame_interval_p;
    uint32_t monochrome, field_mode, mv_precision;
    struct {
        uint32_t version, mode, const_qp[3], average, most, vbv, vbv_delay, flags, qps[9], layers;
        uint8_t layer_qp[8], target_quality, target_quality_fraction;
        uint16_t lookahead;
        uint32_t rest[11];
    } rate;
    uint32_t h264_flags;
};
enum { LOOKAHEAD = 1 << 5, ZERO_REORDER = 1 << 9, DISABLE_SPS_PPS = 1 << 7, REPEAT_SPS_PPS = 1 << 12 };

struct initialize {
    uint32_t version;
    struct guid codec, preset;
    uint32_t width, height, dar_width, dar_height, rate, rate_base, async, decisions, flags, private_size;
    void *private_data;
    const struct config *config;
    uint32_t max_width, max_height, hints[8];
    uint32_t tuning;
};

struct encoder {
    uint32_t width, height, h264_flags;
    int pictures, frame_number, idr_number;
};

struct input { uint32_t pitch, height, format; uint8_t *data; };
struct output { uint8_t *data; uint32_t size, type; uint64_t time; };

static void tell(const char *line)
{
    const char *path = getenv("NVENC_TOLD");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (file) {
        fputs(line, file);
        fclose(file);
    }
}

/* ---- H.264 */

struct bits { uint8_t *data; size_t count; };

static void put(struct bits *bits, unsigned value, int length)
{
    for (int i = length - 1; i >= 0; i--, bits->count++)
        if (value >> i & 1)
            bits->data[bits->count / 8] |= 0x80 >> bits->count % 8;
}

static void put_ue(struct bits *bits, unsigned value)
{
    int length = 0;
    while ((value + 1) >> (length + 1))
        length++;
    put(bits, 0, length);
    put(bits, value + 1, length + 1);
}

static size_t unit(uint8_t *to, int head, struct bits *bits)
{
    put(bits, 1, 1);
    size_t size = (bits->count + 7) / 8, written = 0;
    int zeros = 0;
    memcpy(to, "\0\0\0\1", 4), written = 4;
    to[written++] = head;
    for (size_t i = 0; i < size; i++) {
        if (zeros == 2 && bits->data[i] <= 3)
            to[written++] = 3, zeros = 0;
        zeros = bits->data[i] ? 0 : zeros + 1;
        to[written++] = bits->data[i];
    }
    memset(bits->data, 0, size);
    bits->count = 0;
    return written;
}

static size_t parameter_sets(const struct encoder *encoder, uint8_t *to)
{
    uint8_t memory[64] = { 0 };
    struct bits bits = { memory, 0 };
    unsigned columns = (encoder->width + 15) / 16, rows = (encoder->height + 15) / 16;
    put(&bits, 66, 8), put(&bits, 0xc0, 8), put(&bits, 40, 8);
    put_ue(&bits, 0), put_ue(&bits, 0), put_ue(&bits, 2), put_ue(&bits, 1), put(&bits, 0, 1);
    put_ue(&bits, columns - 1), put_ue(&bits, rows - 1), put(&bits, 3, 2), put(&bits, 1, 1);
    put_ue(&bits, 0), put_ue(&bits, (16 * columns - encoder->width) / 2);
    put_ue(&bits, 0), put_ue(&bits, (16 * rows - encoder->height) / 2);
    put(&bits, 0, 1);
    size_t size = unit(to, 0x67, &bits);
    put_ue(&bits, 0), put_ue(&bits, 0), put(&bits, 0, 2), put_ue(&bits, 0), put_ue(&bits, 0), put_ue(&bits, 0);
    put(&bits, 0, 3), put_ue(&bits, 0), put_ue(&bits, 0), put_ue(&bits, 0), put(&bits, 4, 3);
    return size + unit(to + size, 0x68, &bits);
}

static void put_block(struct bits *bits, const uint8_t *from, size_t pitch, int side)
{
    for (int row = 0; row < side; row++, bits->count += 8 * side)
        memcpy(bits->data + bits->count / 8, from + row * pitch, side);
}

static size_t picture(struct encoder *encoder, const struct input *input, int idr, uint8_t *to)
{
    unsigned columns = (encoder->width + 15) / 16, rows = (encoder->height + 15) / 16;
    struct bits bits = { calloc(1, columns * rows * 512 + 64), 0 };
    const uint8_t *first = input->data + (size_t)input->pitch * input->height;
    const uint8_t *second = first + (size_t)input->pitch / 2 * (input->height / 2);
    const uint8_t *u = input->format == YV12 ? second : first, *v = input->format == YV12 ? first : second;
    size_t size = 0, half = input->pitch / 2;
    encoder->frame_number = idr ? 0 : (encoder->frame_number + 1) % 16;
    put_ue(&bits, 0), put_ue(&bits, 7), put_ue(&bits, 0), put(&bits, encoder->frame_number, 4);
    if (idr)
        put_ue(&bits, encoder->idr_number++ % 2), put(&bits, 0, 2);
    else
        put(&bits, 0, 1);
    put_ue(&bits, 0), put_ue(&bits, 1);
    for (unsigned row = 0; row < rows; row++)
        for (unsigned column = 0; column < columns; column++) {
            put_ue(&bits, 25);
            bits.count = (bits.count + 7) & ~(size_t)7;
            put_block(&bits, input->data + 16 * row * input->pitch + 16 * column, input->pitch, 16);
            put_block(&bits, u + 8 * row * half + 8 * column, half, 8);
            put_block(&bits, v + 8 * row * half + 8 * column, half, 8);
        }
    int told = !(encoder->h264_flags & DISABLE_SPS_PPS);
    if (idr && told && (!encoder->pictures || encoder->h264_flags & REPEAT_SPS_PPS))
        size = parameter_sets(encoder, to);
    size += unit(to + size, idr ? 0x65 : 0x41, &bits);
    free(bits.data);
    return size;
}

/* ---- the interface */

static int open_session(void *how, struct encoder **made)
{
    (void)how;
    static int opened;
    const char *refused = getenv("NVENC_REFUSES");
    if (refused && ++opened == atoi(refused))
        return NO_MEMORY;
    *made = calloc(1, sizeof **made);
    return SUCCESS;
}
static int destroy(struct encoder *encoder) { free(encoder); return SUCCESS; }
static int guid_count(void *encoder, uint32_t *count) { (void)encoder; *count = 1; return SUCCESS; }
static int guids(void *encoder, struct guid *list, uint32_t size, uint32_t *count)
{
    (void)encoder; (void)size;
    *list = H264, *count = 1;
    return SUCCESS;
}
static int caps(void *encoder, struct guid codec, void *which, int *value)
{
    (void)encoder; (void)codec; (void)which;
    *value = 4096; /* a size, and of everything else: yes */
    return SUCCESS;
}
static int preset(void *encoder, struct guid codec, struct guid preset, uint32_t tuning, uint32_t *found)
{
    (void)encoder; (void)codec; (void)preset; (void)tuning;
    struct config *config = (struct config *)(found + (found[1] ? 1 : 2)); /* begins with its version */
    config->gop_length = 250, config->frame_interval_p = 3; /* B-frames unless told otherwise */
    return SUCCESS;
}
static int initialize(struct encoder *encoder, const struct initialize *how)
{
    const struct config *config = how->config;
    char line[512];
    snprintf(line, sizeof line,
             "{\"width\": %u, \"height\": %u, \"interval_p\": %d, \"gop\": %u, \"mode\": %u, \"quality\": %u, \"average\": %u, "
             "\"lookahead\": %s, \"zero_reorder\": %s, \"tuning\": %u}\n",
             how->width, how->height, config->frame_interval_p, config->gop_length, config->rate.mode,
             config->rate.target_quality, config->rate.average, config->rate.flags & LOOKAHEAD ? "true" : "false",
             config->rate.flags & ZERO_REORDER ? "true" : "false", how->tuning);
    if (how->width < 145)
        return INVALID_PARAM;
    tell(line);
    encoder->width = how->width, encoder->height = how->height, encoder->h264_flags = config->h264_flags;
    return SUCCESS;
}
static int sequence(struct encoder *encoder, uint32_t *payload)
{
    uint8_t *to = *(uint8_t **)(payload + 4);
    **(uint32_t **)(payload + 6) = parameter_sets(encoder, to);
    return SUCCESS;
}

struct create { uint32_t version, width, height, heap, format, reserved; struct input *made; };
struct create_output { uint32_t version, size, heap, reserved; struct output *made; };
struct lock { uint32_t version, flags; struct input *input; void *data; uint32_t pitch; };
struct encode {
    uint32_t version, width, height, pitch, flags, index;
    uint64_t time, duration;
    struct input *input;
    struct output *output;
};
struct lock_output {
    uint32_t version, flags;
    struct output *output;
    uint32_t *slices, index, status, count, size;
    uint64_t time, duration;
    void *data;
    uint32_t type, structure, quantiser;
};

static int create_input(void *encoder, struct create *how)
{
    (void)encoder;
    struct input *input = calloc(1, sizeof *input);
    input->pitch = (how->width + 63) & ~63u, input->height = how->height, input->format = how->format;
    input->data = calloc(1, (size_t)input->pitch * (how->height + 32) * 2);
    how->made = input;
    return how->format == IYUV || how->format == YV12 ? SUCCESS : INVALID_PARAM;
}
static int destroy_input(void *encoder, struct input *input) { (void)encoder; free(input->data); free(input); return SUCCESS; }
static int create_output(struct encoder *encoder, struct create_output *how)
{
    how->made = calloc(1, sizeof *how->made);
    how->made->data = malloc((encoder->width + 16) * (encoder->height + 16) * 3 + 256);
    return SUCCESS;
}
static int destroy_output(void *encoder, struct output *output)
{
    (void)encoder;
    free(output->data);
    free(output);
    return SUCCESS;
}
static int lock_input(void *encoder, struct lock *lock)
{
    (void)encoder;
    lock->data = lock->input->data, lock->pitch = lock->input->pitch;
    return SUCCESS;
}
static int unlock(void *encoder, void *what) { (void)encoder; (void)what; return SUCCESS; }
static const char *last_error(void *encoder) { (void)encoder; return "refused"; }
static int streams(void *encoder, void *in, void *out) { (void)encoder; (void)in; (void)out; return SUCCESS; }
static int encode(struct encoder *encoder, const struct encode *how)
{
    if (how->flags & END)
        return SUCCESS;
    int idr = !encoder->pictures || how->flags & FORCE_IDR;
    how->output->size = picture(encoder, how->input, idr, how->output->data);
    how->output->type = idr ? PICTURE_IDR : PICTURE_P;
    how->output->time = how->time;
    encoder->pictures++;
    tell(how->flags & FORCE_IDR ? "{\"forced\": true}\n" : "{\"forced\": false}\n");
    return SUCCESS;
}
static int lock_output(void *encoder, struct lock_output *lock)
{
    (void)encoder;
    lock->data = lock->output->data, lock->size = lock->output->size, lock->time = lock->output->time;
    lock->type = lock->output->type, lock->structure = 1, lock->quantiser = 1, lock->count = 1;
    return SUCCESS;
}

struct functions { uint32_t version, reserved; void *list[318]; };

int NvEncodeAPIGetMaxSupportedVersion(uint32_t *version) { *version = 13 << 4; return SUCCESS; }
int NvEncodeAPICreateInstance(struct functions *made)
{
    void **list = made->list;
    list[1] = (void *)guid_count, list[4] = (void *)guids, list[7] = (void *)caps, list[11] = (void *)initialize;
    list[12] = (void *)create_input, list[13] = (void *)destroy_input, list[14] = (void *)create_output;
    list[15] = (void *)destroy_output, list[16] = (void *)encode, list[17] = (void *)lock_output;
    list[18] = (void *)unlock, list[19] = (void *)lock_input, list[20] = (void *)unlock, list[22] = (void *)sequence;
    list[27] = (void *)destroy, list[29] = (void *)open_session, list[39] = (void *)preset;
    list[37] = (void *)last_error, list[38] = (void *)streams;
    return SUCCESS;
}
