#include "workers.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace recu {
namespace {

using Clock = std::chrono::steady_clock;

// kLinger: how long a thread waits for the next job before it returns to XLA. kWait: how long a caller waits for the
// last items of other threads before it sleeps. XLA cannot use a thread that waits. With a kLinger of 100 us, threads
// still waited when XLA began the first convolution of the next call of cifar_vgg_small.
constexpr std::chrono::microseconds kLinger(50), kWait(100);

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Waits until done() is true, but at most the time `most`. Returns the last result of done().
template <typename Done>
bool Spin(std::chrono::microseconds most, const Done& done) {
  if (done()) return true;
  const Clock::time_point end = Clock::now() + most;
  do {
    for (int i = 0; i < 32; ++i) {
      if (done()) return true;
      Pause();
    }
    std::this_thread::yield();
  } while (Clock::now() < end);
  return done();
}

using Item = std::function<void(int64_t, int)>;
constexpr int kMostThreads = 64;

// Items that several threads share. The last thread that releases the job deletes it.
class Job {
 public:
  Job(int64_t count, int threads, const Item& item) : count_(count), threads_(threads), item_(item) {
    for (int w = 0; w < threads; ++w) parts_[w].next.store(w * count / threads, std::memory_order_relaxed);
  }

  void Hold() { holders_.fetch_add(1, std::memory_order_relaxed); }
  void Release() {
    if (holders_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }

  // Returns the number of a helping thread, from 1 on. The thread that called Each has number 0. With two threads, each
  // thread thus gets the same part in every call of the same size, so the memory of this part is in its cache.
  int Join() { return helpers_.fetch_add(1, std::memory_order_relaxed); }

  // Runs the items of the worker's own part and returns their number, for Report. `item_` lives only until all items
  // are done. A thread that joins later finds no items left and does not use `item_`.
  int64_t WorkOwn(int worker) { return Work(worker, worker); }

  // Runs the items that other workers have not started, and returns their number.
  int64_t WorkOthers(int worker) {
    int64_t mine = 0;
    for (int p = 1; p < threads_; ++p) mine += Work((worker + p) % threads_, worker);
    return mine;
  }

  void Report(int64_t mine) {
    if (mine == 0) return;
    if (done_.fetch_add(mine, std::memory_order_acq_rel) + mine == count_) {
      std::lock_guard<std::mutex> lock(mutex_);
      all_done_.notify_all();
    }
  }

  void Wait() {
    const auto done = [this] { return done_.load(std::memory_order_acquire) == count_; };
    if (Spin(kWait, done)) return;
    std::unique_lock<std::mutex> lock(mutex_);
    all_done_.wait(lock, done);
  }

 private:
  int64_t Work(int part, int worker) {
    const int64_t end = (part + 1) * count_ / threads_;
    int64_t mine = 0;
    // The loop ends after the last item of a part, without another read of the counter. Between distant cores such a
    // read takes up to a microsecond.
    int64_t i;
    do {
      i = parts_[part].next++;
      if (i >= end) break;
      item_(i, worker);
      ++mine;
    } while (i < end - 1);
    return mine;
  }

  struct alignas(64) Part {
    std::atomic<int64_t> next;
  };
  const int64_t count_;
  const int threads_;
  const Item& item_;
  std::atomic<int> helpers_{1};
  Part parts_[kMostThreads];
  alignas(64) std::atomic<int64_t> done_{0};
  std::atomic<int> holders_{1};
  std::mutex mutex_;
  std::condition_variable all_done_;
};

// A place where a thread waits for a short time for its next job.
struct alignas(64) Seat {
  // null: the seat is free. Nothing(): the thread in the seat can be given a job, which it starts after the remaining
  // items of its last job. A job: the thread in the seat was given this job.
  std::atomic<Job*> job{nullptr};
};
constexpr int kSeats = 64;
Seat seats[kSeats];
std::atomic<int> seated{0};

Job* Nothing() {
  alignas(64) static char nothing;
  return reinterpret_cast<Job*>(&nothing);
}

// Gives `job` to at most `most` waiting threads, and returns their number.
int GiveToWaiting(Job* job, int most) {
  int given = 0;
  if (seated.load(std::memory_order_relaxed) == 0) return 0;
  for (int s = 0; s < kSeats && given < most; ++s) {
    Job* expected = Nothing();
    if (seats[s].job.load(std::memory_order_relaxed) != expected) continue;
    job->Hold();
    if (seats[s].job.compare_exchange_strong(expected, job, std::memory_order_acq_rel)) {
      ++given;
    } else {
      job->Release();
    }
  }
  return given;
}

// Takes a free seat and returns it. Returns null if none is free, or if `most_seated` threads have a seat.
Seat* SitDown(int most_seated) {
  if (seated.fetch_add(1) < most_seated) {
    for (Seat& seat : seats) {
      Job* expected = nullptr;
      if (seat.job.compare_exchange_strong(expected, Nothing(), std::memory_order_acq_rel)) return &seat;
    }
  }
  seated.fetch_sub(1);
  return nullptr;
}

// Returns the next job. If none comes in time, leaves the seat and returns null.
Job* WaitForJob(Seat* seat) {
  Spin(kLinger, [&] { return seat->job.load(std::memory_order_acquire) != Nothing(); });
  Job* job = Nothing();
  if (!seat->job.compare_exchange_strong(job, nullptr, std::memory_order_acq_rel)) return job;
  seated.fetch_sub(1);
  return nullptr;
}

void Help(Job* job, int most_seated) {
  Seat* seat = nullptr;
  while (job != nullptr) {
    const int worker = job->Join();
    const int64_t mine = job->WorkOwn(worker);
    // The thread takes its seat before it reports, because the caller may have its next job right after the report.
    if (seat == nullptr) {
      seat = SitDown(most_seated);
    } else {
      seat->job.store(Nothing(), std::memory_order_release);
    }
    job->Report(mine);
    job->Report(job->WorkOthers(worker));
    job->Release();
    job = seat == nullptr ? nullptr : WaitForJob(seat);
  }
}

}  // namespace

void Workers::Each(int64_t count, const Item& item) const noexcept {
  const int most = static_cast<int>(std::min<int64_t>({threads, count, kMostThreads}));
  if (most <= 1) {
    for (int64_t i = 0; i < count; ++i) item(i, 0);
    return;
  }
  Job* job = new Job(count, most, item);
  for (int given = 1 + GiveToWaiting(job, most - 1); given < most; ++given) {
    job->Hold();
    start([job, most] { Help(job, most - 1); });
  }
  const int64_t mine = job->WorkOwn(0);
  job->Report(mine + job->WorkOthers(0));
  job->Wait();
  job->Release();
}

}  // namespace recu
