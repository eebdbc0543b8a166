// A few threads that do one frame's work together; they sleep between jobs.
#pragma once

#include <atomic>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace crf {

class Team {
   public:
    explicit Team(int size) : size_(size) {
        for (int i = 1; i < size; ++i) threads_.emplace_back([this, i] { serve(i); });
    }
    ~Team() {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            leave_ = true;
        }
        wake_.notify_all();
        for (std::thread &thread : threads_) thread.join();
    }
    Team(const Team &) = delete;
    Team &operator=(const Team &) = delete;

    int size() const { return size_; }

    // Calls job(0) … job(size - 1), each in its own thread, and waits for all; rethrows the first error.
    template <typename Job>
    void run(Job &&job) {
        if (size_ == 1) return job(0);
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            job_ = [&job](int i) { job(i); };
            left_ = size_ - 1;
            error_ = nullptr;
            ++turn_;
        }
        wake_.notify_all();
        attempt(0);
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [this] { return left_ == 0; });
        if (error_) std::rethrow_exception(error_);
    }

   private:
    void attempt(int i) {
        try {
            job_(i);
        } catch (...) {
            const std::lock_guard<std::mutex> lock(mutex_);
            if (!error_) error_ = std::current_exception();
        }
    }
    void serve(int i) {
        int seen = 0;
        for (;;) {
            {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [&] { return leave_ || turn_ != seen; });
                if (leave_) return;
                seen = turn_;
            }
            attempt(i);
            const std::lock_guard<std::mutex> lock(mutex_);
            if (--left_ == 0) done_.notify_one();
        }
    }

    const int size_;
    std::mutex mutex_;
    std::condition_variable wake_, done_;
    std::function<void(int)> job_;
    std::exception_ptr error_;
    int turn_ = 0, left_ = 0;
    bool leave_ = false;
    std::vector<std::thread> threads_;
};

}  // namespace crf
