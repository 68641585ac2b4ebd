#include "gradients.h"

#include <algorithm>
#include <vector>

#include "gradient_parts.h"

namespace recu {
namespace {

constexpr int64_t kTilePixels = 256;  // with 16 numbers per pixel, 16 KB, which fit into the first-level cache
constexpr int64_t kItems = 16;        // items for the threads: at least this many, if there are enough rows
constexpr int64_t kItemsPerThread = 8;

// Position of a tap in the window.
struct Tap {
  Tap(const Geometry& g, int64_t tap)
      : k{tap / g.window[2] / g.window[1], tap / g.window[2] % g.window[1], tap % g.window[2]} {}
  int64_t k[3];
};

// Returns the input position that tap k reads for output position `out`, in one dimension.
int64_t Seen(const Geometry& g, int dimension, int64_t out, int64_t k) {
  return out * g.stride[dimension] + k * g.dilation[dimension] - g.low[dimension];
}

// Copies `features` numbers of each of `pixels` pixels, multiplied by alpha unless it is null. The steps are distances
// between pixels.
void CopyPixels(const float* from, int64_t from_step, int64_t pixels, int64_t features, const float* alpha, float* to,
                int64_t to_step) {
  for (int64_t p = 0; p < pixels; ++p, from += from_step, to += to_step) {
    if (alpha == nullptr) {
      std::copy(from, from + features, to);
    } else {
      for (int64_t f = 0; f < features; ++f) to[f] = from[f] * alpha[f];
    }
  }
}

}  // namespace

void KernelPart::Add(const uint64_t* x, const float* dy, int64_t group, int64_t block, int64_t first_row,
                     int64_t last_row, const Isa& isa, float* sums) const {
  const int64_t width = g_.out[2], all = g_.output_features();
  const int64_t feature = block * kLanes, features = std::min(kLanes, g_.features - feature);
  const int64_t tile_rows = std::max<int64_t>(1, kTilePixels / width);
  std::vector<float> numbers(tile_rows * width * kLanes);
  std::vector<OuterRun> runs(tile_rows);
  for (int64_t row = first_row; row < last_row; row += tile_rows) {
    const int64_t rows = std::min(tile_rows, last_row - row);
    CopyPixels(dy + row * width * all + group * g_.features + feature, all, rows * width, features, nullptr,
               numbers.data(), kLanes);
    AddTile(x, group, row, rows, isa, numbers.data(), runs.data(), sums);
  }
}

void KernelPart::Finish(const float* parts, int64_t slices, int64_t slice_step, int64_t group, int64_t block,
                        float* out) const {
  const int64_t feature = block * kLanes, features = std::min(kLanes, g_.features - feature);
  for (int64_t tap = 0; tap < g_.taps(); ++tap) {
    for (int64_t c = 0; c < g_.channels; ++c) {
      const int64_t lane = c % (vectors_ * kLanes), pair = c / (vectors_ * kLanes);
      const float* part = parts + (tap * pairs_ + pair) * kLanes * vectors_ * kLanes + lane;
      float* to = out + (tap * g_.channels + c) * g_.output_features() + group * g_.features + feature;
      for (int64_t f = 0; f < features; ++f) {
        float sum = 0;
        for (int64_t s = 0; s < slices; ++s) sum += part[s * slice_step + f * vectors_ * kLanes];
        to[f] = sum;
      }
    }
  }
}

void KernelPart::AddTile(const uint64_t* x, int64_t group, int64_t first_row, int64_t rows, const Isa& isa,
                         const float* numbers, OuterRun* runs, float* sums) const {
  const Geometry& g = g_;
  const int64_t parts = g.words() * 4, pixel_parts = g.groups * parts;
  const uint16_t* bits = reinterpret_cast<const uint16_t*>(x) + group * parts;
  const OuterSteps steps = {g.stride[2] * pixel_parts, 1, kLanes, 1};
  for (int64_t tap = 0; tap < g.taps(); ++tap) {
    const Tap t(g, tap);
    // Output columns whose tap is inside the image.
    const int64_t at = Seen(g, 2, 0, t.k[2]);
    const int64_t from = std::min(at < 0 ? CeilOf(-at, g.stride[2]) : 0, g.out[2]);
    const int64_t to = at >= g.in[2] ? from : std::clamp(CeilOf(g.in[2] - at, g.stride[2]), from, g.out[2]);
    int count = 0;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t row = first_row + r, image = row / (g.out[0] * g.out[1]);
      const int64_t in0 = Seen(g, 0, row / g.out[1] % g.out[0], t.k[0]), in1 = Seen(g, 1, row % g.out[1], t.k[1]);
      if (in0 < 0 || in0 >= g.in[0] || in1 < 0 || in1 >= g.in[1] || from == to) continue;
      const int64_t pixel = ((image * g.in[0] + in0) * g.in[1] + in1) * g.in[2] + at + from * g.stride[2];
      runs[count++] = {bits + pixel * pixel_parts, numbers + (r * g.out[2] + from) * kLanes, to - from};
    }
    for (int64_t pair = 0; pair < pairs_; ++pair) {
      float* part = sums + (tap * pairs_ + pair) * kLanes * vectors_ * kLanes;
      // Eight features and two vectors of channels need fewer loads than sixteen features and one vector.
      const int64_t step = vectors_ == 2 ? kLanes / 2 : kLanes;
      for (int64_t f = 0; f < kLanes; f += step) {
        isa.outer(static_cast<int>(step), static_cast<int>(vectors_), runs, count, steps,
                  part + f * vectors_ * kLanes);
        for (int i = 0; i < count; ++i) runs[i].numbers += step;
      }
      for (int i = 0; i < count; ++i) {
        runs[i].numbers -= kLanes;
        runs[i].bits += vectors_;
      }
    }
  }
}

std::vector<uint16_t> TurnedKernel(const Geometry& g, const uint64_t* kernel) {
  const int64_t parts = g.words() * 4, taps = g.taps();
  std::vector<uint16_t> turned(g.groups * g.features * taps * parts);
  const uint16_t* from = reinterpret_cast<const uint16_t*>(kernel);
  for (int64_t row = 0; row < g.groups * g.features * taps; ++row, from += parts) {
    const int64_t tap = row % taps, f = row / taps % g.features, group = row / taps / g.features;
    for (int64_t part = 0; part < parts; ++part) {
      turned[((group * parts + part) * taps + tap) * g.features + f] = from[part];
    }
  }
  return turned;
}

InputRows::InputRows(const Geometry& g, const uint16_t* kernel, const float* alpha, const Isa& isa)
    : g_(g), kernel_(kernel), alpha_(alpha), isa_(isa) {
  // With a large power of two as the stride between pixels, all pixels would fall into a few sets of the L1 cache.
  step_ = g.features + (g.features % 256 == 0 ? kLanes : 0);
  for (int64_t k = 0; k < g.window[2]; ++k) {
    for (int64_t i = 0; i < g.in[2]; ++i) {
      if (Hits(2, i, k)) {
        low_ = std::max(low_, -Output(2, i, k));
        high_ = std::max(high_, Output(2, i, k) - g.out[2] + 1);
      }
    }
  }
  width_ = low_ + g.out[2] + high_;
  numbers_.resize(g.window[0] * g.window[1] * width_ * step_);
  runs_.resize(g.taps());
}

void InputRows::Row(const float* dy, int64_t row, int64_t group, float* out) {
  const Geometry& g = g_;
  const int64_t image = row / (g.in[0] * g.in[1]), in0 = row / g.in[1] % g.in[0], in1 = row % g.in[1];
  slots_.clear();
  for (int64_t k0 = 0; k0 < g.window[0]; ++k0) {
    for (int64_t k1 = 0; k1 < g.window[1]; ++k1) {
      if (!Inside(0, in0, k0) || !Inside(1, in1, k1)) continue;
      const int64_t at = ((image * g.out[0] + Output(0, in0, k0)) * g.out[1] + Output(1, in1, k1)) * g.out[2];
      float* slot = numbers_.data() + static_cast<int64_t>(slots_.size()) * width_ * step_;
      CopyPixels(dy + at * g.output_features() + group * g.features, g.output_features(), g.out[2], g.features,
                 alpha_ == nullptr ? nullptr : alpha_ + group * g.features, slot + low_ * step_, step_);
      slots_.push_back(k0 * g.window[1] + k1);
    }
  }
  // A phase holds every stride-th pixel of the row. These pixels read the same taps.
  for (int64_t phase = 0; phase < std::min(g.stride[2], g.in[2]); ++phase) Phase(row, group, phase, out);
}

void InputRows::Phase(int64_t row, int64_t group, int64_t phase, float* out) {
  const Geometry& g = g_;
  const int64_t stride = g.stride[2], pixels = CeilOf(g.in[2] - phase, stride), parts = g.words() * 4;
  const int64_t channel_blocks = CeilOf(g.channels, kLanes), taps = g.taps();
  const uint16_t* kernel = kernel_ + group * parts * taps * g.features;
  alignas(64) float sums[kLanes * 2 * kLanes];
  for (int64_t block = 0; block < channel_blocks; block += 2) {
    const int vectors = block + 1 < channel_blocks ? 2 : 1;
    const OuterSteps steps = {1, taps * g.features, 1, step_};
    // All blocks have nearly the same number of pixels.
    const int64_t most = vectors == 2 ? 12 : kLanes, blocks = CeilOf(pixels, most);
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t first = b * pixels / blocks, last = (b + 1) * pixels / blocks;
      int count = 0;
      for (size_t slot = 0; slot < slots_.size(); ++slot) {
        for (int64_t k = 0; k < g.window[2]; ++k) {
          if (!Hits(2, phase, k)) continue;
          const int64_t tap = slots_[slot] * g.window[2] + k;
          const int64_t column = low_ + Output(2, phase, k) + first;
          runs_[count++] = {kernel + (block * taps + tap) * g.features,
                            numbers_.data() + (static_cast<int64_t>(slot) * width_ + column) * step_, g.features};
        }
      }
      std::fill(sums, sums + kLanes * 2 * kLanes, 0.f);
      isa_.outer(static_cast<int>(last - first), vectors, runs_.data(), count, steps, sums);
      const int64_t channel = block * kLanes, channels = std::min(vectors * kLanes, g.channels - channel);
      for (int64_t p = first; p < last; ++p) {
        const float* from = sums + (p - first) * vectors * kLanes;
        const int64_t pixel = row * g.in[2] + phase + p * stride;
        std::copy(from, from + channels, out + (pixel * g.groups + group) * g.channels + channel);
      }
    }
  }
}

void KernelGradient(const Geometry& g, const uint64_t* x, const float* dy, float* out, const Isa& isa,
                    const Workers& workers) {
  if (g.pixels() == 0) {
    std::fill(out, out + g.taps() * g.channels * g.output_features(), 0.f);
    return;
  }
  const KernelPart part(g);
  const int64_t rows = g.pixels() / g.out[2], blocks = g.groups * CeilOf(g.features, kLanes);
  const int64_t slices = std::min(rows, CeilOf(kItems, blocks));
  std::vector<float> sums(slices * blocks * part.size());
  const int64_t group_blocks = blocks / g.groups;
  workers.Each(slices * blocks, [&](int64_t i, int) {
    const int64_t slice = i / blocks, block = i % blocks;
    part.Add(x, dy, block / group_blocks, block % group_blocks, slice * rows / slices, (slice + 1) * rows / slices, isa,
             sums.data() + i * part.size());
  });
  workers.Each(blocks, [&](int64_t block, int) {
    part.Finish(sums.data() + block * part.size(), slices, blocks * part.size(), block / group_blocks,
                block % group_blocks, out);
  });
}

void InputGradient(const Geometry& g, const uint64_t* kernel, const float* alpha, const float* dy, float* out,
                   const Isa& isa, const Workers& workers) {
  const std::vector<uint16_t> turned = TurnedKernel(g, kernel);
  const int64_t rows = g.batch * g.in[0] * g.in[1];
  if (rows * g.in[2] == 0) return;
  const int64_t calls = std::min(rows, workers.threads > 1 ? kItemsPerThread * workers.threads : 1);
  workers.Each(calls, [&](int64_t call, int) {
    InputRows writer(g, turned.data(), alpha, isa);
    for (int64_t row = call * rows / calls; row < (call + 1) * rows / calls; ++row) {
      for (int64_t group = 0; group < g.groups; ++group) writer.Row(dy, row, group, out);
    }
  });
}

}  // namespace recu
