// Memory that only grows, aligned to cache lines, and not cleared.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace crf {

constexpr size_t kHuge = size_t(1) << 21;  // a large page: what is visited at random is found sooner in them

template <typename T>
class Buffer {
   public:
    Buffer() = default;
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;
    Buffer &operator=(Buffer &&other) noexcept {
        std::swap(data_, other.data_);
        std::swap(room_, other.room_);
        return *this;
    }
    Buffer(Buffer &&other) noexcept : data_(other.data_), room_(other.room_) { other.data_ = nullptr, other.room_ = 0; }
    ~Buffer() { std::free(data_); }

    // Room for `count`; what was in it is lost.
    T *need(size_t count) {
        if (count > room_ || !data_) {
            std::free(data_);
            data_ = nullptr;
            room_ = 0;
            const bool big = count * sizeof(T) >= kHuge;
            const size_t grain = big ? kHuge : 64, bytes = (count * sizeof(T) + grain) / grain * grain;
            data_ = static_cast<T *>(std::aligned_alloc(grain, bytes));
            if (!data_) throw std::bad_alloc();
#if defined(__linux__)
            if (big) madvise(data_, bytes, MADV_HUGEPAGE);
#endif
            room_ = bytes / sizeof(T);
        }
#if defined(__SANITIZE_ADDRESS__)
        // What was not asked for is there all the same: rounded up, or left from a larger frame.
        ASAN_UNPOISON_MEMORY_REGION(data_, count * sizeof(T));
        ASAN_POISON_MEMORY_REGION(data_ + count, (room_ - count) * sizeof(T));
#endif
        return data_;
    }
    T *data() { return data_; }
    const T *data() const { return data_; }
    T &operator[](size_t i) { return data_[i]; }
    const T &operator[](size_t i) const { return data_[i]; }

   private:
    T *data_ = nullptr;
    size_t room_ = 0;
};

}  // namespace crf
