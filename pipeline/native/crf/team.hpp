// A few threads that do one frame's work together; they sleep between jobs.
#pragma once

#include <unistd.h>

#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace crf {

class Team {
   public:
    // Throws std::runtime_error where the system starts no more threads.
    explicit Team(int size) : size_(size), home_(getpid()), crew_(std::make_unique<Crew>()) {
        try {
            crew_->threads.reserve(size_t(size) - 1);
            for (int i = 1; i < size; ++i) crew_->threads.emplace_back([this, i] { serve(i); });
        } catch (const std::system_error &) {
            const size_t had = crew_->threads.size() + 1;
            dismiss();
            throw std::runtime_error("threads: the system has no more than " + std::to_string(had) + " of the " +
                                     std::to_string(size) + " asked for; ask for fewer");
        } catch (...) {
            dismiss();
            throw;
        }
    }
    ~Team() {
        if (at_home())
            dismiss();
        else  // locks and threads are in a state that nobody knows
            (void)crew_.release();
    }
    Team(const Team &) = delete;
    Team &operator=(const Team &) = delete;

    int size() const { return size_; }

    // Calls job(0) … job(size - 1), each in its own thread, and waits for all; rethrows the first error.
    // A forked process has none of the threads: there the caller does all of it.
    template <typename Job>
    void run(Job &&job) {
        if (size_ == 1) return job(0);
        if (!at_home()) {
            for (int i = 0; i < size_; ++i) job(i);
            return;
        }
        Crew &crew = *crew_;
        {
            const std::lock_guard<std::mutex> lock(crew.mutex);
            crew.job = [&job](int i) { job(i); };
            crew.left = size_ - 1;
            crew.error = nullptr;
            ++crew.turn;
        }
        crew.wake.notify_all();
        attempt(0);
        std::unique_lock<std::mutex> lock(crew.mutex);
        crew.done.wait(lock, [&crew] { return crew.left == 0; });
        if (crew.error) std::rethrow_exception(crew.error);
    }

   private:
    struct Crew {
        std::mutex mutex;
        std::condition_variable wake, done;
        std::function<void(int)> job;
        std::exception_ptr error;
        unsigned turn = 0;
        int left = 0;
        bool leave = false;
        std::vector<std::thread> threads;
    };

    bool at_home() const { return getpid() == home_; }
    void dismiss() {
        {
            const std::lock_guard<std::mutex> lock(crew_->mutex);
            crew_->leave = true;
        }
        crew_->wake.notify_all();
        for (std::thread &thread : crew_->threads) thread.join();
    }
    void attempt(int i) {
        try {
            crew_->job(i);
        } catch (...) {
            const std::lock_guard<std::mutex> lock(crew_->mutex);
            if (!crew_->error) crew_->error = std::current_exception();
        }
    }
    void serve(int i) {
        Crew &crew = *crew_;
        unsigned seen = 0;
        for (;;) {
            {
                std::unique_lock<std::mutex> lock(crew.mutex);
                crew.wake.wait(lock, [&] { return crew.leave || crew.turn != seen; });
                if (crew.leave) return;
                seen = crew.turn;
            }
            attempt(i);
            const std::lock_guard<std::mutex> lock(crew.mutex);
            if (--crew.left == 0) crew.done.notify_one();
        }
    }

    const int size_;
    const pid_t home_;
    std::unique_ptr<Crew> crew_;
};

}  // namespace crf
