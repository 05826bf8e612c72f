#include "pool.h"

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

namespace sparsify {
namespace {

constexpr unsigned SPINS = 2000;  // looks for the next job before a thread sleeps: the next layer comes soon
constexpr unsigned MOST_THREADS = 1024;

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

struct Job {
    Work work;
    void* context;
    uint64_t tasks;
    std::atomic<uint64_t> next{0};

    void help() {
        for (uint64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) work(context, task);
    }
};

class Pool {
public:
    const pid_t owner = getpid();

    bool run(unsigned threads, Job& job) {
        std::unique_lock<std::mutex> alone(calling_, std::try_to_lock);
        if (!alone.owns_lock()) return false;
        grow(threads - 1);
        {
            std::lock_guard<std::mutex> hold(mutex_);
            job_ = &job;
            wanted_ = threads - 1;
            number_.fetch_add(1, std::memory_order_release);
        }
        wake_.notify_all();
        job.help();
        std::unique_lock<std::mutex> hold(mutex_);
        job_ = nullptr;  // nobody joins any more
        done_.wait(hold, [this] { return helping_ == 0; });
        return true;
    }

private:
    std::mutex calling_, mutex_;
    std::condition_variable wake_, done_;
    Job* job_ = nullptr;
    unsigned wanted_ = 0, helping_ = 0, threads_ = 0;
    std::atomic<uint64_t> number_{0};

    void grow(unsigned threads) {
        try {
            for (; threads_ < threads; ++threads_) std::thread([this] { serve(); }).detach();
        } catch (const std::system_error&) {  // no more threads are to be had: those that are there do the work
        }
    }

    void serve() {
        for (uint64_t seen = 0;;) {
            for (unsigned spin = 0; spin < SPINS && number_.load(std::memory_order_acquire) == seen; ++spin) pause();
            std::unique_lock<std::mutex> hold(mutex_);
            wake_.wait(hold, [&] { return number_.load(std::memory_order_relaxed) != seen; });
            seen = number_.load(std::memory_order_relaxed);
            if (!job_ || !wanted_) continue;
            --wanted_;
            ++helping_;
            Job& job = *job_;
            hold.unlock();
            job.help();
            hold.lock();
            if (--helping_ == 0) done_.notify_all();
        }
    }
};

// Pools are never deleted: their threads outlive static objects, and after a fork there is nobody to join.
Pool& pool() {
    static std::atomic<Pool*> current{nullptr};
    Pool* found = current.load(std::memory_order_acquire);
    while (!found || found->owner != getpid()) {
        Pool* made = new Pool;
        if (current.compare_exchange_strong(found, made, std::memory_order_acq_rel)) return *made;
        delete made;
    }
    return *found;
}

}  // namespace

void parallel(unsigned threads, uint64_t tasks, Work work, void* context) {
    if (threads > tasks) threads = static_cast<unsigned>(tasks);
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    Job job{work, context, tasks};
    if (threads < 2 || !pool().run(threads, job)) job.help();
}

}  // namespace sparsify
