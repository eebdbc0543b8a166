// Memory that only grows, aligned to cache lines, and not cleared.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>
#include <utility>

namespace crf {

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
            const size_t bytes = (count * sizeof(T) + 64) / 64 * 64;
            data_ = static_cast<T *>(std::aligned_alloc(64, bytes));
            if (!data_) throw std::bad_alloc();
            room_ = count;
        }
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
