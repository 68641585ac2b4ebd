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

// How long a thread waits for the next job, and a caller for the last items of others, before they sleep. A thread that
// waits is one fewer for XLA: with 100 us the stem of the next cifar_vgg_small found it waiting.
constexpr std::chrono::microseconds kLinger(50), kWait(100);

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Whether `done` came true within a time.
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

// Items that some threads share; lives until the last of them lets it go.
class Job {
 public:
  Job(int64_t count, int threads, const Item& item) : count_(count), threads_(threads), item_(item) {
    for (int w = 0; w < threads; ++w) parts_[w].next.store(w * count / threads, std::memory_order_relaxed);
  }

  void Hold() { holders_.fetch_add(1, std::memory_order_relaxed); }
  void Release() {
    if (holders_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }

  // The number of a thread that helps; the caller's is 0, so that of two threads each has the same part in every call
  // of the same size, whose memory is in its cache.
  int Join() { return helpers_.fetch_add(1, std::memory_order_relaxed); }

  // Does a worker's own part; how many items, to be reported. `item_` lives as long as there are items; a thread that
  // comes later touches the rest alone.
  int64_t WorkOwn(int worker) { return Work(worker, worker); }

  // The same, with what others have left.
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
    // After the last item of a part nobody need be asked whether there is another: where the cores are far from each
    // other the answer takes up to a microsecond.
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

// Where a thread that is through with its part of a job waits, for a little while, for the next.
struct alignas(64) Seat {
  // null: nobody sits here; Nothing(): somebody takes a job, now or when there is nothing left of the last one; a job:
  // it was handed out, or is being done.
  std::atomic<Job*> job{nullptr};
};
constexpr int kSeats = 64;
Seat seats[kSeats];
std::atomic<int> seated{0};

Job* Nothing() {
  alignas(64) static char nothing;
  return reinterpret_cast<Job*>(&nothing);
}

// Hands out `job` to threads that wait.
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

// A free seat, taken, or null.
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

// The next job, or null if none came and the seat was left.
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
    // Waiting before the caller hears of it: it may have the next job at once.
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
