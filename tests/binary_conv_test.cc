// Compares every instruction set of the compiled kernels with loops over +-1, on random shapes; tests/test_csrc.py
// builds it with the address and undefined behaviour sanitizers. Arguments: seed, number of shapes.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include "binary_conv.h"
#include "isa.h"

using namespace recu;

namespace {

std::mt19937_64 rng;

int64_t Draw(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(rng); }
float Real() { return std::normal_distribution<float>()(rng); }

#define CHECK(condition, ...)                    \
  if (!(condition)) {                            \
    std::printf("%s:%d: ", __FILE__, __LINE__);  \
    std::printf(__VA_ARGS__);                    \
    std::printf("\n");                           \
    std::exit(1);                                \
  }

// Memory of exactly the size that is asked for, so that the sanitizer sees a step beyond it.
template <typename T>
std::vector<T> Exactly(int64_t size) {
  std::vector<T> v;
  v.reserve(size);
  v.resize(size);
  return v;
}

Workers Threads(int count) {
  Workers workers;
  workers.threads = count;
  workers.each = [count](int64_t items, const std::function<void(int64_t)>& item) {
    std::vector<std::thread> threads;
    for (int t = 0; t < count; ++t) {
      threads.emplace_back([&, t] {
        for (int64_t i = t; i < items; i += count) item(i);
      });
    }
    for (std::thread& thread : threads) thread.join();
  };
  return workers;
}

Geometry DrawGeometry(int64_t most_channels) {
  Geometry g;
  g.batch = Draw(1, 3);
  const int64_t spatial = Draw(0, 3);
  for (int64_t i = 3 - spatial; i < 3; ++i) {
    g.window[i] = Draw(1, spatial == 3 ? 3 : 7);
    g.stride[i] = Draw(1, 3);
    g.dilation[i] = Draw(1, 2);
    const int64_t span = (g.window[i] - 1) * g.dilation[i] + 1;
    g.low[i] = Draw(-1, span + 1);  // also beyond the window, and cropping
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

void Check(const Geometry& g) {
  // Signs, and their packed forms.
  const int64_t in_pixels = g.batch * g.in[0] * g.in[1] * g.in[2];
  std::vector<int8_t> x(in_pixels * g.groups * g.channels), w(g.groups * g.features * g.taps() * g.channels);
  auto packed = Exactly<uint64_t>(g.input_words());
  auto panels = Exactly<uint64_t>(g.groups * g.blocks() * g.depth() * kBlock);
  auto tap_sums = Exactly<int32_t>(g.groups * g.blocks() * g.taps() * kBlock);
  for (int64_t i = 0; i < static_cast<int64_t>(x.size()); ++i) {
    x[i] = Draw(0, 1) ? 1 : -1;
    const int64_t row = i / g.channels, c = i % g.channels;
    if (x[i] > 0) packed[row * g.words() + c / 64] |= uint64_t{1} << (c % 64);
  }
  for (int64_t i = 0; i < static_cast<int64_t>(w.size()); ++i) {
    w[i] = Draw(0, 1) ? 1 : -1;
    const int64_t c = i % g.channels, tap = i / g.channels % g.taps(), f = i / g.channels / g.taps();
    const int64_t group = f / g.features, block = f % g.features / kBlock, lane = f % g.features % kBlock;
    const int64_t panel = group * g.blocks() + block;
    if (w[i] > 0) panels[(panel * g.depth() + tap * g.words() + c / 64) * kBlock + lane] |= uint64_t{1} << (c % 64);
    tap_sums[(panel * g.taps() + tap) * kBlock + lane] -= w[i];
  }
  // Sums by definition.
  const int64_t all = g.output_features();
  std::vector<int32_t> expected(g.pixels() * all);
  for (int64_t p = 0; p < g.pixels(); ++p) {
    const int64_t o[3] = {p / g.out[2] / g.out[1] % g.out[0], p / g.out[2] % g.out[1], p % g.out[2]};
    const int64_t image = p / (g.out[0] * g.out[1] * g.out[2]);
    for (int64_t tap = 0; tap < g.taps(); ++tap) {
      const int64_t k[3] = {tap / g.window[2] / g.window[1], tap / g.window[2] % g.window[1], tap % g.window[2]};
      int64_t at = image;
      bool inside = true;
      for (int i = 0; i < 3; ++i) {
        const int64_t in = o[i] * g.stride[i] + k[i] * g.dilation[i] - g.low[i];
        inside = inside && 0 <= in && in < g.in[i];
        at = at * g.in[i] + in;
      }
      if (!inside) continue;
      for (int64_t f = 0; f < all; ++f) {
        const int8_t* a = x.data() + (at * g.groups + f / g.features) * g.channels;
        const int8_t* b = w.data() + (f * g.taps() + tap) * g.channels;
        for (int64_t c = 0; c < g.channels; ++c) expected[p * all + f] += a[c] * b[c];
      }
    }
  }

  const Kernel kernel = {panels.data(), tap_sums.data()};
  for (const char* name : {"portable", "avx2", "avx512"}) {
    const Isa* isa = FindIsa(name);
    if (isa == nullptr) continue;
    for (int threads : {1, 3}) {
      const Workers workers = threads == 1 ? Workers() : Threads(threads);
      auto out = Exactly<int32_t>(expected.size());
      const Sums sums = {out.data()};
      Epilogue epilogue;
      epilogue.sums = &sums;
      BinaryConv(g, packed.data(), kernel, epilogue, *isa, workers);
      CHECK(out == expected, "%s, %d threads: sums differ", name, threads);
      if (g.groups != 1) continue;

      const int64_t padded = g.blocks() * kBlock;
      auto threshold = Exactly<int32_t>(padded), direction = Exactly<int32_t>(padded);
      auto affine = Exactly<float>(4 * padded), shortcut = Exactly<float>(expected.size());
      for (int64_t f = 0; f < padded; ++f) {
        threshold[f] = static_cast<int32_t>(Draw(-20, 20));
        direction[f] = Draw(0, 1) ? 1 : -1;
        for (int row = 0; row < 4; ++row) affine[row * padded + f] = 0.1f * Real();
      }
      for (float& s : shortcut) s = Real();
      auto bits = Exactly<uint64_t>(g.pixels() * g.output_words());
      for (uint64_t& word : bits) word = ~uint64_t{0};
      const Thresholds thresholds = {threshold.data(), direction.data(), bits.data()};
      epilogue = Epilogue();
      epilogue.thresholds = &thresholds;
      BinaryConv(g, packed.data(), kernel, epilogue, *isa, workers);
      for (int64_t i = 0; i < g.pixels() * g.output_words() * 64; ++i) {
        const int64_t p = i / (g.output_words() * 64), f = i % (g.output_words() * 64);
        const bool bit = f < all && direction[f] * expected[p * all + f] >= threshold[f];
        CHECK(bit == (bits[i / 64] >> (i % 64) & 1), "%s: threshold of channel %d", name, static_cast<int>(f));
      }

      for (int variant = 0; variant < 4; ++variant) {
        auto real = Exactly<float>(expected.size());
        for (uint64_t& word : bits) word = ~uint64_t{0};
        const float* rows = affine.data();
        const Affine a = {rows,          rows + padded, rows + 2 * padded, rows + 3 * padded, variant & 1 ? shortcut.data() : nullptr,
                          variant >= 2, real.data(),   bits.data()};
        epilogue = Epilogue();
        epilogue.affine = &a;
        BinaryConv(g, packed.data(), kernel, epilogue, *isa, workers);
        for (int64_t i = 0; i < g.pixels() * g.output_words() * 64; ++i) {
          const int64_t p = i / (g.output_words() * 64), f = i % (g.output_words() * 64);
          const bool bit = bits[i / 64] >> (i % 64) & 1;
          if (f >= all) {
            CHECK(!bit, "%s: a bit after the last channel", name);
            continue;
          }
          const float centred = std::fma(static_cast<float>(expected[p * all + f]), rows[f], -rows[padded + f]);
          float y = std::fma(centred, rows[2 * padded + f], rows[3 * padded + f]);
          if (variant & 1) y += shortcut[p * all + f];
          if (variant >= 2) y = std::fmin(1.f, std::fmax(-1.f, y));
          CHECK(y == real[p * all + f] && bit == (y >= 0), "%s: affine of channel %d: %g and not %g", name,
                static_cast<int>(f), real[p * all + f], y);
        }
      }
    }
  }
}

void CheckPack() {
  const int64_t rows = Draw(1, 2000), channels = Draw(1, 200), words = (channels + 63) / 64;
  auto x = Exactly<float>(rows * channels);
  for (float& v : x) v = Draw(0, 9) ? Real() : Draw(0, 1) ? 0.f : -0.f;
  x[0] = NAN;
  for (const char* name : {"portable", "avx2", "avx512"}) {
    const Isa* isa = FindIsa(name);
    if (isa == nullptr) continue;
    auto packed = Exactly<uint64_t>(rows * words);
    PackSigns(x.data(), rows, channels, packed.data(), *isa, Threads(2));
    for (int64_t i = 0; i < rows * words * 64; ++i) {
      const int64_t row = i / (words * 64), c = i % (words * 64);
      const bool expected = c < channels && x[row * channels + c] >= 0;
      CHECK(expected == (packed[i / 64] >> (i % 64) & 1), "%s: sign of channel %d", name, static_cast<int>(c));
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  rng.seed(argc > 1 ? std::atoi(argv[1]) : 0);
  const int shapes = argc > 2 ? std::atoi(argv[2]) : 200;
  for (int i = 0; i < shapes; ++i) {
    Check(DrawGeometry(i % 10 ? 300 : 3100));
    if (i % 20 == 0) CheckPack();
  }
  std::printf("%d shapes:", shapes);
  for (const char* name : {"portable", "avx2", "avx512"}) {
    if (FindIsa(name) != nullptr) std::printf(" %s", name);
  }
  std::printf("\n");
}
