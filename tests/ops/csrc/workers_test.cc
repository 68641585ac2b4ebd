// Distributes items over threads, with several callers at once. tests/ops/test_csrc.py builds this program with the
// thread sanitizer. Checks that every item is done once, before Each returns, and that no two items run at the same
// time with the same worker's number. Arguments: seed, number of rounds.

#include <atomic>

#include "random_shapes.h"

using namespace recu;

namespace {

// Calls Each once for each of `counts`. A helping thread that has finished one call waits for the next.
void Call(const std::vector<int64_t>& counts, int threads) {
  const Workers workers = Threads(threads);
  for (const int64_t count : counts) {
    // Not atomic, so that the thread sanitizer reports two items of one worker at the same time, and reads that come
    // too early.
    std::vector<int> done(count), last_of_worker(threads, -1);
    std::vector<std::atomic<int>> busy(threads);
    workers.Each(count, [&](int64_t item, int worker) {
      CHECK(worker >= 0 && worker < threads, "worker %d of %d", worker, threads);
      // Relaxed, because a stronger order would itself order a worker's items and hide a race from the sanitizer.
      CHECK(busy[worker].fetch_add(1, std::memory_order_relaxed) == 0, "two items at a time of worker %d", worker);
      ++done[item];
      last_of_worker[worker] = static_cast<int>(item);
      busy[worker].fetch_sub(1, std::memory_order_relaxed);
    });
    for (int64_t i = 0; i < count; ++i) {
      CHECK(done[i] == 1, "item %d of %d was done %d times", static_cast<int>(i), static_cast<int>(count), done[i]);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  rng.seed(argc > 1 ? std::atoi(argv[1]) : 0);
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 100;
  for (int round = 0; round < rounds; ++round) {
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 2; ++caller) {
      std::vector<int64_t> counts(Draw(1, 20));
      for (int64_t& count : counts) count = Draw(0, 3) ? Draw(0, 12) : Draw(0, 2000);
      callers.emplace_back(Call, counts, static_cast<int>(Draw(1, 4)));
    }
    for (std::thread& caller : callers) caller.join();
  }
  std::printf("%d rounds\n", rounds);
}
