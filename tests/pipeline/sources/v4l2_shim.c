// A V4L2 camera for machines that have none: LD_PRELOAD=v4l2_shim.so V4L2_SHIM=FOLDER program
//
// /dev/video97 is there, and gives YUYV or planar 4:2:0 pictures of 320x240 or 640x480 at the rate that is asked
// for, unless FOLDER/gone exists (unplugged) or FOLDER/stalled does (alive, but no pictures).  Where FOLDER/clock exists they
// show the time.
//
// It stands in for the calls that libav and Python make of libc.  It shows that our code asks libav the right
// things and survives what cameras do; it proves nothing of the kernel's drivers, of real cameras' modes and
// quirks, of compressed formats, nor of how fast a real device reports that it was pulled out.
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define DEVICE "/dev/video97"
#define NAME "video97"
#define BUFFERS 8
#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int device = -1, mouth = -1, streaming, width = 320, height = 240, rate = 30, count;
static unsigned format = V4L2_PIX_FMT_YUYV;
static unsigned char *memory[BUFFERS];
static int queued[BUFFERS], waiting, head;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int is(const char *what)
{
    char path[4096];
    const char *folder = getenv("V4L2_SHIM");
    snprintf(path, sizeof path, "%s/%s", folder ? folder : "", what);
    return folder && NEXT(access)(path, F_OK) == 0;
}

static int here(const char *path) { return path && strcmp(path, DEVICE) == 0; }
static size_t size(void) { return (size_t)width * height * (format == V4L2_PIX_FMT_YUYV ? 4 : 3) / 2; }

static void *tick(void *unused)
{
    (void)unused;
    while (streaming) {
        usleep(1000000 / rate);
        if (is("gone") || !is("stalled"))
            if (write(mouth, "!", 1) < 0) break;
    }
    return NULL;
}

static int open_device(int flags)
{
    int ends[2];
    if (is("gone")) { errno = ENOENT; return -1; }
    if (device >= 0) { errno = EBUSY; return -1; }
    if (pipe2(ends, O_CLOEXEC | (flags & O_NONBLOCK)) < 0) return -1;
    fcntl(ends[1], F_SETFL, O_NONBLOCK);
    device = ends[0];
    mouth = ends[1];
    return device;
}

int open(const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    int mode = va_arg(more, int);
    va_end(more);
    return here(path) ? open_device(flags) : NEXT(open)(path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    int mode = va_arg(more, int);
    va_end(more);
    return here(path) ? open_device(flags) : NEXT(open64)(path, flags, mode);
}

int close(int fd)
{
    if (fd >= 0 && fd == device) {
        streaming = 0;
        device = -1;
        NEXT(close)(mouth);
    }
    return NEXT(close)(fd);
}

int stat(const char *path, struct stat *found)
{
    if (here(path)) {
        if (is("gone")) { errno = ENOENT; return -1; }
        path = "/dev/null";
    }
    return NEXT(stat)(path, found);
}

int lstat(const char *path, struct stat *found)
{
    return here(path) ? stat(path, found) : NEXT(lstat)(path, found);
}

int stat64(const char *path, struct stat64 *found)
{
    return stat(path, (struct stat *)found);
}

int lstat64(const char *path, struct stat64 *found)
{
    return lstat(path, (struct stat *)found);
}

ssize_t readlink(const char *path, char *target, size_t room)
{
    char ours[64];
    snprintf(ours, sizeof ours, "/proc/self/fd/%d", device);
    if (device >= 0 && strcmp(path, ours) == 0) {
        size_t length = strlen(DEVICE) < room ? strlen(DEVICE) : room;
        memcpy(target, DEVICE, length);
        return (ssize_t)length;
    }
    return NEXT(readlink)(path, target, room);
}

static DIR *devices;

DIR *opendir(const char *path)
{
    DIR *opened = NEXT(opendir)(path);
    if (opened && strcmp(path, "/dev") == 0) devices = opened;
    return opened;
}

static struct dirent extra = {.d_type = DT_CHR, .d_name = NAME};

struct dirent *readdir(DIR *from)
{
    struct dirent *found = NEXT(readdir)(from);
    if (!found && from == devices && !is("gone")) { devices = NULL; return &extra; }
    return found;
}

struct dirent64 *readdir64(DIR *from)
{
    struct dirent64 *found = NEXT(readdir64)(from);
    if (!found && from == devices && !is("gone")) { devices = NULL; return (struct dirent64 *)&extra; }
    return found;
}

void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    if (fd >= 0 && fd == device) return memory[offset / (1 << 24)];
    return NEXT(mmap)(at, length, protection, flags, fd, offset);
}

void *mmap64(void *at, size_t length, int protection, int flags, int fd, off64_t offset)
{
    if (fd >= 0 && fd == device) return memory[offset / (1 << 24)];
    return NEXT(mmap64)(at, length, protection, flags, fd, offset);
}

int munmap(void *at, size_t length)
{
    for (int i = 0; i < BUFFERS; i++)
        if (at == memory[i] && at) return 0;
    return NEXT(munmap)(at, length);
}

static void shape(struct v4l2_format *asked, int keep)
{
    struct v4l2_pix_format *pix = &asked->fmt.pix;
    if (!keep) {
        int large = pix->width > 320;
        width = large ? 640 : 320;
        height = large ? 480 : 240;
        format = pix->pixelformat == V4L2_PIX_FMT_YUV420 ? pix->pixelformat : V4L2_PIX_FMT_YUYV;
    }
    pix->width = width;
    pix->height = height;
    pix->pixelformat = format;
    pix->field = V4L2_FIELD_NONE;
    pix->bytesperline = width * (format == V4L2_PIX_FMT_YUYV ? 2 : 1);
    pix->sizeimage = size();
}

// Twenty cells, five rows of four: a marker, then the milliseconds of the clock, 16 bits of them, bright for 1.
static void paint_clock(unsigned char *picture, const struct timespec *now)
{
    unsigned long bits = 0xb0000 | ((now->tv_sec * 1000UL + now->tv_nsec / 1000000) & 0xffff);
    int step = format == V4L2_PIX_FMT_YUYV ? 2 : 1;
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            int cell = y * 5 / height * 4 + x * 4 / width;
            picture[((size_t)y * width + x) * step] = bits >> (19 - cell) & 1 ? 192 : 64;
        }
}

static int take(struct v4l2_buffer *buffer)
{
    char byte;
    ssize_t got = read(device, &byte, 1);
    if (is("gone")) { errno = ENODEV; return -1; }
    if (got <= 0) { if (got == 0) errno = ENODEV; return -1; }
    pthread_mutex_lock(&lock);
    if (!waiting) { pthread_mutex_unlock(&lock); errno = EAGAIN; return -1; }
    int index = queued[head];
    head = (head + 1) % BUFFERS;
    waiting--;
    pthread_mutex_unlock(&lock);
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    memset(memory[index], 128, size());
    memset(memory[index], count % 200 + 20, width);  // the first row tells the number
    if (is("clock")) paint_clock(memory[index], &now);
    buffer->index = index;
    buffer->bytesused = size();
    buffer->sequence = count++;
    buffer->timestamp.tv_sec = now.tv_sec;
    buffer->timestamp.tv_usec = now.tv_nsec / 1000;
    buffer->flags = V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
    return 0;
}

static int describe(struct v4l2_fmtdesc *asked)
{
    static const unsigned formats[] = {V4L2_PIX_FMT_YUYV, V4L2_PIX_FMT_YUV420};
    if (asked->index > 1) { errno = EINVAL; return -1; }
    asked->pixelformat = formats[asked->index];
    snprintf((char *)asked->description, sizeof asked->description, "%s", asked->index ? "planar 4:2:0" : "YUYV 4:2:2");
    return 0;
}

static int sizes(struct v4l2_frmsizeenum *asked)
{
    if (asked->index > 1) { errno = EINVAL; return -1; }
    asked->type = V4L2_FRMSIZE_TYPE_DISCRETE;
    asked->discrete.width = asked->index ? 640 : 320;
    asked->discrete.height = asked->index ? 480 : 240;
    return 0;
}

static int begin(void)
{
    pthread_t thread;
    streaming = 1;
    if (pthread_create(&thread, NULL, tick, NULL)) { errno = ENOMEM; return -1; }
    return pthread_detach(thread);
}

static int buffers(struct v4l2_requestbuffers *asked)
{
    asked->count = asked->count > BUFFERS ? BUFFERS : asked->count;
    waiting = head = 0;
    for (unsigned i = 0; i < asked->count; i++) {
        memory[i] = realloc(memory[i], size());
        if (!memory[i]) { errno = ENOMEM; return -1; }
    }
    return 0;
}

static int answer(unsigned long request, void *asked)
{
    switch (request) {
    case VIDIOC_QUERYCAP: {
        struct v4l2_capability *told = asked;
        memset(told, 0, sizeof *told);
        strcpy((char *)told->driver, "shim");
        strcpy((char *)told->card, "Shim Camera 9000");
        strcpy((char *)told->bus_info, "usb-shim");
        told->capabilities = told->device_caps = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
        return 0;
    }
    case VIDIOC_ENUM_FMT: return describe(asked);
    case VIDIOC_ENUM_FRAMESIZES: return sizes(asked);
    case VIDIOC_G_FMT: shape(asked, 1); return 0;
    case VIDIOC_S_FMT:
    case VIDIOC_TRY_FMT: shape(asked, 0); return 0;
    case VIDIOC_G_INPUT: *(int *)asked = 0; return 0;
    case VIDIOC_ENUMINPUT: memset((char *)asked + sizeof(int), 0, sizeof(struct v4l2_input) - sizeof(int)); return 0;
    case VIDIOC_S_PARM:
    case VIDIOC_G_PARM: {
        struct v4l2_captureparm *parm = &((struct v4l2_streamparm *)asked)->parm.capture;
        if (request == VIDIOC_S_PARM && parm->timeperframe.numerator)
            rate = parm->timeperframe.denominator / parm->timeperframe.numerator;
        parm->capability = V4L2_CAP_TIMEPERFRAME;
        parm->timeperframe.numerator = 1;
        parm->timeperframe.denominator = rate;
        return 0;
    }
    case VIDIOC_REQBUFS: return buffers(asked);
    case VIDIOC_QUERYBUF: {
        struct v4l2_buffer *buffer = asked;
        buffer->length = size();
        buffer->m.offset = buffer->index << 24;
        return 0;
    }
    case VIDIOC_QBUF:
        pthread_mutex_lock(&lock);
        queued[(head + waiting++) % BUFFERS] = ((struct v4l2_buffer *)asked)->index;
        pthread_mutex_unlock(&lock);
        return 0;
    case VIDIOC_DQBUF: return take(asked);
    case VIDIOC_STREAMON: return begin();
    case VIDIOC_STREAMOFF: streaming = 0; return 0;
    default: errno = ENOTTY; return -1;
    }
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list more;
    va_start(more, request);
    void *asked = va_arg(more, void *);
    va_end(more);
    if (fd < 0 || fd != device) return NEXT(ioctl)(fd, request, asked);
    if (is("gone")) { errno = ENODEV; return -1; }
    return answer((unsigned int)request, asked);
}
