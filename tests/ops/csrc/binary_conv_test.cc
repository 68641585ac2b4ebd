// Compares every instruction set of the compiled kernels with loops over +-1, on random shapes. tests/ops/test_csrc.py
// builds this program with the address and undefined behaviour sanitizers. Arguments: seed, number of shapes.

#include <cmath>

#include "binary_conv.h"
#include "isa.h"
#include "random_shapes.h"

using namespace recu;

namespace {

// With `opposite`, all inputs are +1 and all weights are -1.
void Check(const Geometry& g, bool opposite = false) {
  // Signs, and their packed forms.
  const int64_t in_pixels = g.batch * g.in[0] * g.in[1] * g.in[2];
  std::vector<double> x(in_pixels * g.groups * g.channels);
  std::vector<int8_t> w(g.groups * g.features * g.taps() * g.channels);
  auto packed = Exactly<uint64_t>(g.input_words());
  auto panels = Exactly<uint64_t>(g.groups * g.blocks() * g.depth() * kBlock);
  auto tap_sums = Exactly<int32_t>(g.groups * g.blocks() * g.taps() * kBlock);
  DrawSigns(g.channels, &x, &packed, opposite);
  for (int64_t i = 0; i < static_cast<int64_t>(w.size()); ++i) {
    w[i] = !opposite && Draw(0, 1) ? 1 : -1;
    const int64_t c = i % g.channels, tap = i / g.channels % g.taps(), f = i / g.channels / g.taps();
    const int64_t group = f / g.features, block = f % g.features / kBlock, lane = f % g.features % kBlock;
    const int64_t panel = group * g.blocks() + block;
    if (w[i] > 0) panels[(panel * g.depth() + WordOf(g, tap, c)) * kBlock + lane] |= BitOf(g, tap, c);
    tap_sums[(panel * g.taps() + tap) * kBlock + lane] -= w[i];
  }
  // Sums by definition.
  const int64_t all = g.output_features();
  std::vector<int32_t> expected(g.pixels() * all);
  EachTap(g, [&](int64_t p, int64_t tap, int64_t at) {
    for (int64_t f = 0; f < all; ++f) {
      const double* a = x.data() + (at * g.groups + f / g.features) * g.channels;
      const int8_t* b = w.data() + (f * g.taps() + tap) * g.channels;
      for (int64_t c = 0; c < g.channels; ++c) expected[p * all + f] += static_cast<int32_t>(a[c]) * b[c];
    }
  });

  const Kernel kernel = {panels.data(), tap_sums.data()};
  for (const char* name : kIsaNames) {
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
  auto norm = Exactly<float>(3 * channels);
  for (float& v : norm) v = Draw(0, 9) ? Real() : 0.f;
  for (const char* name : kIsaNames) {
    const Isa* isa = FindIsa(name);
    if (isa == nullptr) continue;
    auto packed = Exactly<uint64_t>(rows * words);
    for (const bool normalised : {false, true}) {
      PackSigns(x.data(), rows, channels, normalised ? norm.data() : nullptr, packed.data(), *isa, Threads(2));
      for (int64_t i = 0; i < rows * words * 64; ++i) {
        const int64_t row = i / (words * 64), c = i % (words * 64);
        float v = c < channels ? x[row * channels + c] : -1.f;
        if (normalised && c < channels) v = std::fma(v - norm[c], norm[channels + c], norm[2 * channels + c]);
        CHECK((v >= 0) == (packed[i / 64] >> (i % 64) & 1), "%s: sign of channel %d", name, static_cast<int>(c));
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  rng.seed(argc > 1 ? std::atoi(argv[1]) : 0);
  const int shapes = argc > 2 ? std::atoi(argv[2]) : 200;
  // One word per pixel, and rows longer than any tile. Then whole tiles are copied at once: rare in random shapes.
  Geometry rows;
  rows.in[1] = rows.out[1] = 3, rows.in[2] = rows.out[2] = 40;
  rows.window[1] = rows.window[2] = 3, rows.low[1] = rows.low[2] = 1;
  rows.channels = 64, rows.features = 20;
  Check(rows);
  // The largest counts: all bits differ, in more words than a counter of one byte can count.
  Geometry words;
  words.batch = 5, words.channels = 64 * 70, words.features = 20;
  Check(words, true);
  for (int i = 0; i < shapes; ++i) {
    Check(DrawGeometry(i % 10 ? 300 : 3100));
    if (i % 20 == 0) CheckPack();
  }
  PrintDone(shapes);
}
