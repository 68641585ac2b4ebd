// Prints how many nanoseconds pass until a core sees the store of another core. This latency is short if the cores
// share a cache. On a virtual machine, this latency changes over time. It decides how much a second thread gains.

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <thread>

constexpr int kRounds = 20000;
alignas(64) std::atomic<int> ball{0};

void StayOn(int core) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CPU_SET(core, &cores);
  pthread_setaffinity_np(pthread_self(), sizeof cores, &cores);
}

// Waits for the numbers first, first + 2, ... in turn, and answers each with the next number.
void Play(int core, int first) {
  StayOn(core);
  for (int i = first; i < 2 * kRounds; i += 2) {
    while (ball.load(std::memory_order_acquire) != i) {
    }
    ball.store(i + 1, std::memory_order_release);
  }
}

int main() {
  const auto began = std::chrono::steady_clock::now();
  std::thread other(Play, 1, 1);
  Play(0, 0);
  other.join();
  const std::chrono::duration<double, std::nano> spent = std::chrono::steady_clock::now() - began;
  std::printf("%.0f\n", spent.count() / (2 * kRounds));
}
