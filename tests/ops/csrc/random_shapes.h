// Random shapes, a loop over the taps of a convolution, and comparisons, for the tests of the compiled kernels. Each
// test is one source file.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "binary_conv.h"
#include "isa.h"

namespace recu {

inline std::mt19937_64 rng;

inline int64_t Draw(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(rng); }
inline float Real() { return std::normal_distribution<float>()(rng); }

#define CHECK(condition, ...)                    \
  if (!(condition)) {                            \
    std::printf("%s:%d: ", __FILE__, __LINE__);  \
    std::printf(__VA_ARGS__);                    \
    std::printf("\n");                           \
    std::exit(1);                                \
  }

// Returns a vector whose memory ends after `size` elements, so that the sanitizer sees an access beyond them.
template <typename T>
std::vector<T> Exactly(int64_t size) {
  std::vector<T> v;
  v.reserve(size);
  v.resize(size);
  return v;
}

// Returns workers that start a new thread for each task. Destroying the last copy of the workers joins the
// threads.
inline Workers Threads(int count) {
  struct Started {
    std::vector<std::thread> threads;
    ~Started() {
      for (std::thread& thread : threads) thread.join();
    }
  };
  Workers workers;
  workers.threads = count;
  workers.start = [started = std::make_shared<Started>()](std::function<void()> task) {
    started->threads.emplace_back(std::move(task));
  };
  return workers;
}

inline Geometry DrawGeometry(int64_t most_channels) {
  Geometry g;
  g.batch = Draw(1, 3);
  const int64_t spatial = Draw(0, 3);
  for (int64_t i = 3 - spatial; i < 3; ++i) {
    g.window[i] = Draw(1, spatial == 3 ? 3 : 7);
    g.stride[i] = Draw(1, 3);
    g.dilation[i] = Draw(1, 2);
    const int64_t span = (g.window[i] - 1) * g.dilation[i] + 1;
    g.low[i] = Draw(-1, span + 1);  // padding wider than the window, or -1, which crops
    const int64_t high = Draw(-1, span + 1);
    g.in[i] = std::max(Draw(1, 12), span - g.low[i] - high);
    g.in[i] = std::max<int64_t>(g.in[i], 1);
    g.out[i] = (g.in[i] + g.low[i] + high - span) / g.stride[i] + 1;
  }
  g.groups = Draw(0, 3) == 0 ? Draw(2, 4) : 1;
  g.channels = Draw(0, 4) == 0 ? Draw(1, most_channels) : Draw(1, 70);
  g.features = Draw(1, 40);
  return g;
}

// Draws signs, rows of `channels`, and packs them. With `all_ones`, all are +1.
inline void DrawSigns(int64_t channels, std::vector<double>* signs, std::vector<uint64_t>* packed,
                      bool all_ones = false) {
  const int64_t words = (channels + 63) / 64;
  for (int64_t i = 0; i < static_cast<int64_t>(signs->size()); ++i) {
    (*signs)[i] = all_ones || Draw(0, 1) ? 1 : -1;
    const int64_t row = i / channels, c = i % channels;
    if ((*signs)[i] > 0) (*packed)[row * words + c / 64] |= uint64_t{1} << (c % 64);
  }
}

// The place of a sign among the bits of an output channel's panel: taps of at most 32 channels share words.
inline int64_t PlaceInPanel(const Geometry& g, int64_t tap, int64_t channel) {
  int64_t bits = 8;
  while (bits < g.channels) bits *= 2;
  return tap * (bits < 64 ? bits : 64 * g.words()) + channel;
}
inline int64_t WordOf(const Geometry& g, int64_t tap, int64_t channel) { return PlaceInPanel(g, tap, channel) / 64; }
inline uint64_t BitOf(const Geometry& g, int64_t tap, int64_t channel) {
  return uint64_t{1} << PlaceInPanel(g, tap, channel) % 64;
}

// Calls each(output pixel, tap, input pixel) where the tap lies inside the image.
template <typename Each>
void EachTap(const Geometry& g, const Each& each) {
  for (int64_t p = 0; p < g.pixels(); ++p) {
    const int64_t o[3] = {p / g.out[2] / g.out[1] % g.out[0], p / g.out[2] % g.out[1], p % g.out[2]};
    for (int64_t tap = 0; tap < g.taps(); ++tap) {
      const int64_t k[3] = {tap / g.window[2] / g.window[1], tap / g.window[2] % g.window[1], tap % g.window[2]};
      int64_t at = p / (g.out[0] * g.out[1] * g.out[2]);
      bool inside = true;
      for (int i = 0; i < 3; ++i) {
        const int64_t in = o[i] * g.stride[i] + k[i] * g.dilation[i] - g.low[i];
        inside = inside && 0 <= in && in < g.in[i];
        at = at * g.in[i] + in;
      }
      if (inside) each(p, tap, at);
    }
  }
}

// Compares floats with doubles. Number i may differ by `relative` * size[i] + `absolute`.
inline void CheckClose(const std::vector<float>& got, const std::vector<double>& expected,
                       const std::vector<double>& size, double relative, double absolute, const char* what,
                       const char* name) {
  for (size_t i = 0; i < got.size(); ++i) {
    CHECK(std::fabs(got[i] - expected[i]) <= relative * size[i] + absolute, "%s: %s %d is %g and not %g", name, what,
          static_cast<int>(i), got[i], expected[i]);
  }
}

// Compares floats with those of the instruction set that came first: all sets round alike, so the bits are equal.
class SameBits {
 public:
  void Check(const std::vector<float>& got, const std::string& what, const char* name) {
    const std::vector<float>& first = first_.emplace(what, got).first->second;
    CHECK(got.size() == first.size() && std::memcmp(got.data(), first.data(), got.size() * sizeof(float)) == 0,
          "%s: %s differs from that of another instruction set", name, what.c_str());
  }

 private:
  std::map<std::string, std::vector<float>> first_;
};

inline void PrintDone(int shapes) {
  std::printf("%d shapes:", shapes);
  for (const char* name : kIsaNames) {
    if (FindIsa(name) != nullptr) std::printf(" %s", name);
  }
  std::printf("\n");
}

}  // namespace recu
