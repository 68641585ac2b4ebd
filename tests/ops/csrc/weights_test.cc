// Compares the signs of standardized weights and their gradient, of every instruction set, with sums in double, on
// random shapes. It is built and called as binary_conv_test.cc is.

#include <cmath>

#include "isa.h"
#include "random_shapes.h"

using namespace recu;

namespace {

constexpr float kSpread = 2.8284271f, kEpsilon = 1e-5f;

void Check(bool with_nan) {
  const int64_t rows = Draw(2, Draw(0, 3) == 0 ? 700 : 40), channels = Draw(1, kWeightChannels);
  const int64_t stride = channels + Draw(0, 20);
  // The last row ends with its last channel, so that the sanitizer sees an access beyond it.
  const int64_t size = (rows - 1) * stride + channels;
  auto weights = Exactly<float>(size), gradient = Exactly<float>(size);
  const float offset = Real();
  for (float& w : weights) w = 0.05f * (Real() + offset);
  for (float& g : gradient) g = Real();
  if (with_nan) weights[Draw(0, rows - 1) * stride] = NAN;
  const double factor = Draw(0, 3) == 0 ? INFINITY : 0.5 + std::fabs(Real());

  std::vector<double> mean(channels), scale(channels), magnitudes(channels), mean_size(channels);
  double total = 0;
  for (int64_t c = 0; c < channels; ++c) {
    double squares = 0;
    for (int64_t r = 0; r < rows; ++r) mean[c] += weights[r * stride + c] / static_cast<double>(rows);
    for (int64_t r = 0; r < rows; ++r) {
      const double centred = weights[r * stride + c] - mean[c];
      squares += centred * centred;
      magnitudes[c] += std::fabs(centred);
      mean_size[c] += std::fabs(weights[r * stride + c]) / static_cast<double>(rows);
    }
    scale[c] = kSpread / std::sqrt(squares / static_cast<double>(rows - 1) + kEpsilon);
    magnitudes[c] *= scale[c];
    if (!std::isnan(magnitudes[c])) total += magnitudes[c];
  }
  const double bound = factor * total / static_cast<double>(rows * channels);

  const WeightTile tile = {weights.data(), rows, stride, static_cast<int>(channels)};
  SameBits same_bits;
  for (const char* name : kIsaNames) {
    const Isa* isa = FindIsa(name);
    if (isa == nullptr) continue;
    auto got_mean = Exactly<float>(channels), got_scale = Exactly<float>(channels);
    auto got_magnitudes = Exactly<float>(channels);
    auto signs = Exactly<float>(size), out = Exactly<float>(size);
    isa->weights.signs(tile, kSpread, kEpsilon, got_mean.data(), got_scale.data(), got_magnitudes.data(),
                       signs.data());
    isa->weights.gradient(tile, gradient.data(), kSpread, static_cast<float>(bound), got_mean.data(),
                          got_scale.data(), out.data());
    for (int64_t i = 0; i < size; ++i) {
      CHECK(i % stride < channels || (signs[i] == 0 && out[i] == 0), "%s: wrote beside the tile", name);
    }
    for (int64_t c = 0; c < channels; ++c) {
      if (with_nan && c == 0) {
        for (int64_t r = 0; r < rows; ++r) {
          CHECK(std::isnan(signs[r * stride]), "%s: row %d of a NaN's channel is no NaN", name, static_cast<int>(r));
        }
        continue;
      }
      CHECK(std::fabs(got_mean[c] - mean[c]) <= 1e-6 * mean_size[c], "%s: mean %g, not %g", name, got_mean[c], mean[c]);
      CHECK(std::fabs(got_scale[c] - scale[c]) <= 1e-5 * scale[c], "%s: scale %g, not %g", name, got_scale[c],
            scale[c]);
      CHECK(std::fabs(got_magnitudes[c] - magnitudes[c]) <= 1e-5 * magnitudes[c], "%s: magnitudes %g, not %g", name,
            got_magnitudes[c], magnitudes[c]);
      // A weight this close to the mean, or to the bound, may be on either side of it.
      const double near = 1e-5 * (mean_size[c] + 1 / scale[c]);
      double sum = 0, product = 0, sizes = 0, unsure = 0;
      std::vector<double> passed(rows);
      for (int64_t r = 0; r < rows; ++r) {
        const double centred = weights[r * stride + c] - mean[c], g = gradient[r * stride + c];
        if (std::fabs(centred) > near) {
          CHECK(signs[r * stride + c] == (centred >= 0 ? 1.f : -1.f), "%s: sign of %g is %g", name, centred,
                signs[r * stride + c]);
        }
        const double left = bound - std::fabs(centred) * scale[c];
        if (std::fabs(left) < near * scale[c]) unsure = 1;
        passed[r] = left >= 0 ? g : 0;
        sum += passed[r];
        product += passed[r] * centred;
        sizes += std::fabs(g);
      }
      if (unsure != 0) continue;
      const double pull = product * (scale[c] / kSpread) * (scale[c] / kSpread) / static_cast<double>(rows - 1);
      for (int64_t r = 0; r < rows; ++r) {
        const double centred = weights[r * stride + c] - mean[c];
        const double expected = scale[c] * (passed[r] - sum / static_cast<double>(rows) - centred * pull);
        CHECK(std::fabs(out[r * stride + c] - expected) <= 2e-5 * scale[c] * (1 + sizes / static_cast<double>(rows)),
              "%s: gradient %g, not %g", name, out[r * stride + c], expected);
      }
    }
    if (!with_nan) {
      same_bits.Check(got_mean, "mean", name);
      same_bits.Check(got_scale, "scale", name);
      same_bits.Check(got_magnitudes, "magnitudes", name);
      same_bits.Check(signs, "signs", name);
      same_bits.Check(out, "gradient", name);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  rng.seed(argc > 1 ? std::atoi(argv[1]) : 0);
  const int shapes = argc > 2 ? std::atoi(argv[2]) : 200;
  for (int i = 0; i < shapes; ++i) Check(i % 5 == 0);
  PrintDone(shapes);
}
