// Sharing work out over threads that belong to somebody else.

#pragma once

#include <cstdint>
#include <functional>

namespace recu {

struct Workers {
  // With the calling one.
  int threads = 1;
  // Has a task done some time, on another thread or on this one.
  std::function<void(std::function<void()> task)> start;

  // Does item(0, w) ... item(count - 1, w), in any order and on any thread, and returns when all are done. Of the
  // items with one w < threads none are done at the same time.
  // An exception ends the program: other threads may be at items.
  void Each(int64_t count, const std::function<void(int64_t, int)>& item) const noexcept;
};

}  // namespace recu
