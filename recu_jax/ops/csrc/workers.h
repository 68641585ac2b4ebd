// Distributes work over threads of another library, such as XLA's.

#pragma once

#include <cstdint>
#include <functional>

namespace recu {

struct Workers {
  // Number of threads, including the calling one.
  int threads = 1;
  // Runs a task later, on another thread or on this one.
  std::function<void(std::function<void()> task)> start;

  // Runs item(0, w) ... item(count - 1, w), in any order and on any thread, and returns when all are done. w is the
  // number of the worker, below `threads`. Two items of the same worker never run at the same time. An exception ends
  // the program, because other threads may still run items.
  void Each(int64_t count, const std::function<void(int64_t, int)>& item) const noexcept;
};

}  // namespace recu
