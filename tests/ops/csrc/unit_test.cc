// Compares the unit of every instruction set, in training and evaluation, with loops over +-1 in double, on random
// shapes.

#include "unit.h"

#include <cmath>
#include <string>
#include <utility>

#include "isa.h"
#include "random_shapes.h"

using namespace recu;

namespace {

template <typename Function>
void EveryIsa(const Function& function) {
  for (const char* name : kIsaNames) {
    const Isa* isa = FindIsa(name);
    if (isa != nullptr) function(name, *isa);
  }
}

bool Bit(const std::vector<uint8_t>& bits, int64_t i) { return bits[i / 8] >> i % 8 & 1; }

void Check(const Geometry& g) {
  const int64_t in_pixels = g.batch * g.in[0] * g.in[1] * g.in[2], all = g.output_features(), taps = g.taps();
  const int64_t in = in_pixels * g.groups * g.channels, out = g.pixels() * all;
  auto x = Exactly<float>(in), dz = Exactly<float>(out), shortcut = Exactly<float>(out), z = Exactly<float>(out);
  auto coefficients = Exactly<float>(4 * all), alpha = Exactly<float>(all);
  auto kernel = Exactly<uint64_t>(all * taps * g.words());
  std::vector<double> w(all * taps * g.channels);
  DrawSigns(g.channels, &w, &kernel);
  for (auto* numbers : {&x, &dz, &shortcut, &coefficients, &alpha}) {
    for (float& v : *numbers) v = Real();
  }
  auto passed = Exactly<uint8_t>(BytesOfBits(out));
  for (uint8_t& byte : passed) byte = static_cast<uint8_t>(Draw(0, 255));
  const bool identity = in == out;

  // The layout of arrange_kernel.
  std::vector<uint64_t> panels(g.groups * g.blocks() * g.depth() * kBlock);
  std::vector<int32_t> tap_sums(g.groups * g.blocks() * taps * kBlock);
  for (int64_t f = 0; f < all; ++f) {
    const int64_t group = f / g.features, block = f % g.features / kBlock, lane = f % g.features % kBlock;
    for (int64_t tap = 0; tap < taps; ++tap) {
      int64_t ones = 0;
      for (int64_t c = 0; c < g.channels; ++c) {
        if (w[(f * taps + tap) * g.channels + c] < 0) continue;
        panels[((group * g.blocks() + block) * g.depth() + WordOf(g, tap, c)) * kBlock + lane] |= BitOf(g, tap, c);
        ++ones;
      }
      tap_sums[((group * g.blocks() + block) * taps + tap) * kBlock + lane] =
          static_cast<int32_t>(g.channels - 2 * ones);
    }
  }

  std::vector<double> sums(out);
  EachTap(g, [&](int64_t o, int64_t tap, int64_t i) {
    for (int64_t f = 0; f < all; ++f) {
      for (int64_t c = 0; c < g.channels; ++c) {
        const double sign = x[(i * g.groups + f / g.features) * g.channels + c] >= 0 ? 1 : -1;
        sums[o * all + f] += sign * w[(f * taps + tap) * g.channels + c];
      }
    }
  });

  SameBits same_bits;
  EveryIsa([&](const char* name, const Isa& isa) {
    auto words = Exactly<uint64_t>(g.input_words());
    auto got = Exactly<int16_t>(out);
    auto moments = Exactly<float>(2 * all), again = Exactly<float>(2 * all);
    UnitSums(g, x.data(), {panels.data(), tap_sums.data()}, words.data(), got.data(), moments.data(), isa, Threads(3));
    UnitSums(g, x.data(), {panels.data(), tap_sums.data()}, words.data(), got.data(), again.data(), isa, Workers());
    CHECK(moments == again, "%s: the moments depend on the threads", name);
    same_bits.Check(moments, "moments", name);
    for (int64_t i = 0; i < out; ++i) CHECK(got[i] == sums[i], "%s: sum %d", name, static_cast<int>(i));
    const double count = static_cast<double>(g.pixels());
    for (int64_t f = 0; f < all; ++f) {
      double mean = 0, var = 0;
      for (int64_t p = 0; p < g.pixels(); ++p) mean += sums[p * all + f] / count;
      for (int64_t p = 0; p < g.pixels(); ++p) var += (sums[p * all + f] - mean) * (sums[p * all + f] - mean) / count;
      CHECK(std::fabs(moments[f] - mean) < 1e-5 * (1 + std::fabs(mean)), "%s: mean", name);
      CHECK(std::fabs(moments[all + f] - var) < 1e-5 * (1 + var), "%s: variance", name);
    }

    for (const auto& [added, clamp] : {std::pair(true, false), {false, false}, {true, true}, {false, true}}) {
      auto inside = Exactly<uint8_t>(BytesOfBits(out)), of_one_thread = inside;
      UnitNormalize(g.pixels(), all, got.data(), coefficients.data(), added ? shortcut.data() : nullptr, clamp,
                    z.data(), of_one_thread.data(), isa, Workers());
      UnitNormalize(g.pixels(), all, got.data(), coefficients.data(), added ? shortcut.data() : nullptr, clamp,
                    z.data(), inside.data(), isa, Threads(3));
      CHECK(inside == of_one_thread, "%s: the bits depend on the threads", name);
      std::vector<double> expected(out), size(out);
      for (int64_t i = 0; i < out; ++i) {
        const float* c = coefficients.data() + i % all;
        expected[i] = (sums[i] - c[0]) * c[all] + c[2 * all] + (added ? shortcut[i] : 0);
        size[i] = std::fabs(expected[i]) + std::fabs(sums[i] * c[all]);
        if (clamp) expected[i] = std::fmax(-1, std::fmin(1, expected[i]));
        CHECK(Bit(inside, i) == (!clamp || std::fabs(z[i]) < 1), "%s: bit %d", name, static_cast<int>(i));
      }
      CheckClose(z, expected, size, 3e-6, 1e-6, "z", name);
      const std::string what = added ? "z with a shortcut" : "z";
      same_bits.Check(z, clamp ? what : what + ", not clamped", name);
    }

    for (const bool clamp : {false, true}) {
      if (g.groups > 1) continue;
      // Affine's rows are padded to whole blocks.
      const int64_t padded = g.blocks() * kBlock;
      std::vector<float> rows(4 * padded);
      for (int64_t f = 0; f < all; ++f) {
        rows[f] = alpha[f];
        for (int row = 0; row < 3; ++row) rows[(row + 1) * padded + f] = coefficients[row * all + f];
      }
      Affine affine;
      affine.alpha = rows.data();
      affine.mean = rows.data() + padded;
      affine.factor = rows.data() + 2 * padded;
      affine.bias = rows.data() + 3 * padded;
      affine.shortcut = identity ? nullptr : shortcut.data();
      affine.clamp = clamp;
      affine.out = z.data();
      UnitEvaluate(g, x.data(), {panels.data(), tap_sums.data()}, affine, identity, isa, Threads(3));
      std::vector<double> expected(out), size(out);
      for (int64_t i = 0; i < out; ++i) {
        const float* c = coefficients.data() + i % all;
        const double of_sum = sums[i] * alpha[i % all];
        expected[i] = (of_sum - c[0]) * c[all] + c[2 * all] + (identity ? x[i] : shortcut[i]);
        size[i] = std::fabs(expected[i]) + std::fabs(of_sum * c[all]) + std::fabs(c[0] * c[all]) + 1;
        if (clamp) expected[i] = std::fmax(-1, std::fmin(1, expected[i]));
      }
      CheckClose(z, expected, size, 3e-6, 1e-6, "z in evaluation", name);
      same_bits.Check(z, clamp ? "z in evaluation" : "z in evaluation, not clamped", name);
      auto some_nan = x, whole = z;
      const int64_t sample = Draw(0, g.batch - 1);
      some_nan[sample * (in / g.batch) + Draw(0, in / g.batch - 1)] = NAN;
      UnitEvaluate(g, some_nan.data(), {panels.data(), tap_sums.data()}, affine, identity, isa, Workers());
      for (int64_t i = 0; i < out; ++i) {
        if (i / (out / g.batch) == sample) {
          CHECK(std::isnan(z[i]), "%s: a NaN is lost in evaluation", name);
        } else {
          CHECK(z[i] == whole[i], "%s: a NaN or the threads change other samples", name);
        }
      }
    }

    const float* mean = coefficients.data();
    std::vector<double> total(2 * all), total_size(2 * all), d(out), g_of(out);
    for (int64_t i = 0; i < out; ++i) {
      const int64_t f = i % all;
      g_of[i] = Bit(passed, i) ? dz[i] : 0;
      const double centred = sums[i] - mean[f];
      total[f] += g_of[i];
      total[all + f] += g_of[i] * centred;
      total_size[f] += std::fabs(g_of[i]);
      total_size[all + f] += std::fabs(g_of[i] * centred);
      d[i] = g_of[i] * mean[all + f] + centred * mean[2 * all + f] + mean[3 * all + f];
    }
    auto gradient_sums = Exactly<float>(2 * all), same_sums = Exactly<float>(2 * all);
    UnitGradientSums(g.pixels(), all, dz.data(), passed.data(), got.data(), mean, gradient_sums.data(), isa, Threads(3));
    UnitGradientSums(g.pixels(), all, dz.data(), passed.data(), got.data(), mean, same_sums.data(), isa, Workers());
    CHECK(gradient_sums == same_sums, "%s: the sums of the gradient depend on the threads", name);
    same_bits.Check(gradient_sums, "gradient sums", name);
    CheckClose(gradient_sums, total, total_size, 3e-6, 1e-6, "gradient sum", name);

    std::vector<double> dw(taps * g.channels * all), dw_size(dw), h(in), h_size(in);
    EachTap(g, [&](int64_t o, int64_t tap, int64_t i) {
      for (int64_t f = 0; f < all; ++f) {
        for (int64_t c = 0; c < g.channels; ++c) {
          const int64_t a = (i * g.groups + f / g.features) * g.channels + c, b = (tap * g.channels + c) * all + f;
          const double weight = w[(f * taps + tap) * g.channels + c] * alpha[f];
          dw[b] += (x[a] >= 0 ? 1 : -1) * d[o * all + f];
          dw_size[b] += std::fabs(d[o * all + f]);
          h[a] += weight * d[o * all + f];
          h_size[a] += std::fabs(weight * d[o * all + f]);
        }
      }
    });
    std::vector<double> dx(in), dx_size(in);
    const int64_t sample = in / g.batch;
    for (int64_t first = 0; first < in; first += sample) {
      double x_mean = 0, var = 0, product = 0, product_size = 0;
      for (int64_t i = first; i < first + sample; ++i) x_mean += x[i] / static_cast<double>(sample);
      for (int64_t i = first; i < first + sample; ++i) var += (x[i] - x_mean) * (x[i] - x_mean);
      const double others = sample > 1 ? static_cast<double>(sample - 1) : 1.0;
      const double inverse = 1 / std::sqrt(var / others + 1e-5);
      for (int64_t i = first; i < first + sample; ++i) {
        const double slope = std::fmax(0, 2 - 2 * std::fabs(x[i] * inverse));
        // Where the slope is nearly 0, it is a difference of nearly equal numbers, so its rounding error is large.
        h_size[i] = h_size[i] * slope + std::fabs(h[i]) * 4;
        h[i] *= slope;
        product += h[i] * x[i];
        product_size += h_size[i] * std::fabs(x[i]);
      }
      for (int64_t i = first; i < first + sample; ++i) {
        const double pull = inverse * inverse * inverse / others * (x[i] - x_mean);
        dx[i] = h[i] * inverse - product * pull + (identity ? g_of[i] : 0);
        dx_size[i] = h_size[i] * inverse + product_size * std::fabs(pull);
      }
    }
    std::vector<float> results[2][3];
    for (int run = 0; run < 2; ++run) {
      results[run][0] = Exactly<float>(in);
      results[run][1] = Exactly<float>(dw.size());
      results[run][2] = Exactly<float>(out);
      UnitGradientCall call = {x.data(), words.data(), kernel.data(), alpha.data(), dz.data(), passed.data(),
                               got.data(), mean, identity, results[run][0].data(), results[run][1].data(),
                               results[run][2].data()};
      UnitGradients(g, call, isa, run ? Threads(3) : Workers());
    }
    for (int kind = 0; kind < 3; ++kind) {
      CHECK(results[0][kind] == results[1][kind], "%s: a gradient depends on the threads", name);
      same_bits.Check(results[0][kind], "gradient " + std::to_string(kind), name);
    }
    CheckClose(results[0][0], dx, dx_size, 3e-6, 1e-6, "gradient of x", name);
    CheckClose(results[0][1], dw, dw_size, 3e-6, 1e-6, "gradient of the kernel", name);
    for (int64_t i = 0; i < out; ++i) CHECK(results[0][2][i] == g_of[i], "%s: gradient of the shortcut", name);

    auto with_nan = x;
    with_nan[Draw(0, in - 1)] = NAN;
    UnitSums(g, with_nan.data(), {panels.data(), tap_sums.data()}, words.data(), got.data(), moments.data(), isa,
             Workers());
    for (float v : moments) CHECK(std::isnan(v), "%s: a NaN is lost", name);
  });
}

}  // namespace

int main(int argc, char** argv) {
  rng.seed(argc > 1 ? std::atoi(argv[1]) : 0);
  const int shapes = argc > 2 ? std::atoi(argv[2]) : 200;
  for (int i = 0; i < shapes;) {
    const Geometry g = DrawGeometry(i % 10 ? 80 : 600);
    if (g.pixels() == 0 || g.taps() * g.channels > 8192) continue;
    Check(g);
    ++i;
  }
  PrintDone(shapes);
}
