// Prints how many nanoseconds a store of one core takes to be seen by another: whether the two share a cache. Cores of
// a virtual machine may be near each other at one time and far at another, which decides what a second thread is worth.

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

// Answers every odd number, or even one, with the next.
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
