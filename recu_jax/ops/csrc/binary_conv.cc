#include "binary_conv.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "isa.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "Packed arrays are 32-bit words to JAX and 64-bit words here: the byte order must be little endian."
#endif

namespace recu {
namespace {

// With several items per thread, other threads can take over the items of a delayed thread.
constexpr int64_t kItemsPerThread = 4;
// Limits on the gathered words of a strip.
constexpr int64_t kStripBytes = 1 << 14;
constexpr int64_t kStripTiles = 8;

// Copies `count` words, or with a shift adds their bits to those of `to`.
inline void CopyWords(uint64_t* __restrict to, const uint64_t* __restrict from, int64_t step, int64_t count,
                      int shift) {
  // Loops with a constant step compile to vectors.
  const auto copy = [=](int64_t every) {
    if (shift == 0) {
      for (int64_t i = 0; i < count; ++i) to[i] = from[i * every];
    } else {
      for (int64_t i = 0; i < count; ++i) to[i] |= from[i * every] << shift;
    }
  };
  if (step == 1) {
    copy(1);
  } else {
    copy(step);
  }
}

// Some output pixels, and for each of them the input words of all its taps, stored side by side. They are counted in
// tiles of as many pixels as the instruction set takes.
class Strip {
 public:
  Strip(const Geometry& g, int64_t max_pixels)
      : g_(g),
        gathered_(new uint64_t[g.depth() * max_pixels]),
        outside_(new int32_t[g.taps() * max_pixels]),
        outside_count_(max_pixels) {}

  // Fills gathered, (depth, pixels), for the output pixels [first, last) of one group. Taps outside the image get
  // zeros.
  void Gather(const uint64_t* x, int64_t group, int64_t first, int64_t last) {
    if (group == group_ && first == first_) return;
    group_ = group;
    first_ = first;
    pixels_ = last - first;
    std::fill(outside_count_.begin(), outside_count_.end(), 0);
    any_outside_ = false;
    // Gathers one row of output pixels at a time. Two bounds then tell which pixels have a tap outside the image. The
    // input pixels of all others are evenly spaced. A test and a copy per pixel took half as much time as the counting,
    // in a layer of 64 channels.
    for (int64_t pixel = first; pixel < last;) {
      const int64_t at = pixel % g_.out[2];
      const int64_t count = std::min(g_.out[2] - at, last - pixel);
      GatherRow(x, group, pixel / g_.out[2], at, count, pixel - first);
      pixel += count;
    }
  }

  // Writes the sums, (pixels, kBlock), of a tile: the pixels [first, first + pixels) of the strip.
  void Count(const Isa& isa, int64_t first, int pixels, const uint64_t* panel, const int32_t* tap_sums,
             int32_t* sums) const {
    const int32_t all = static_cast<int32_t>(g_.taps() * g_.channels);
    isa.count(gathered_.get() + first, pixels_, panel, g_.depth(), pixels, all, sums);
    if (!any_outside_) return;
    // Subtracts the contributions of taps outside the image.
    isa.border({pixels, outside_count_.data() + first, outside_.get() + first * g_.taps(), g_.taps(), tap_sums, sums});
  }

 private:
  // Gathers `count` pixels of output row `row` from column `at` on. Rows are numbered over batch and outer dimensions.
  void GatherRow(const uint64_t* x, int64_t group, int64_t row, int64_t at, int64_t count, int64_t into) {
    // Copies members into local variables. The compiler must assume that a write to the gathered words changes members,
    // and would read them again. This took a quarter of the time of a layer of 64 channels.
    const Geometry g = g_;
    const int64_t words = g.words(), pixel_words = g.groups * words, stride = g.stride[2], pixels = pixels_;
    const int64_t image = row / (g.out[0] * g.out[1]);
    const int64_t out0 = row / g.out[1] % g.out[0], out1 = row % g.out[1];
    // Bits of a tap, if several taps share a word.
    const int64_t word_taps = g.word_taps(), tap_bits = 64 / word_taps;
    const uint64_t* __restrict source = x + group * words;
    int32_t tap = 0;
    for (int64_t k0 = 0; k0 < g.window[0]; ++k0) {
      const int64_t in0 = out0 * g.stride[0] + k0 * g.dilation[0] - g.low[0];
      for (int64_t k1 = 0; k1 < g.window[1]; ++k1) {
        const int64_t in1 = out1 * g.stride[1] + k1 * g.dilation[1] - g.low[1];
        const bool inside = 0 <= in0 && in0 < g.in[0] && 0 <= in1 && in1 < g.in[1];
        const int64_t column = ((image * g.in[0] + in0) * g.in[1] + in1) * g.in[2];
        for (int64_t k2 = 0; k2 < g.window[2]; ++k2, ++tap) {
          uint64_t* __restrict target = gathered_.get() + into + tap / word_taps * words * pixels;
          const int shift = static_cast<int>(tap % word_taps * tap_bits);
          // Input column of the first pixel at this tap. The column of each next pixel is `stride` further.
          const int64_t in2 = at * stride + k2 * g.dilation[2] - g.low[2];
          int64_t from = 0, to = inside ? count : 0;
          // Nearly always this tap is inside the image for all pixels. Testing this first avoids the divisions.
          if (inside && (in2 < 0 || in2 + (count - 1) * stride >= g.in[2])) {
            from = in2 < 0 ? std::min((-in2 + stride - 1) / stride, count) : 0;
            to = in2 >= g.in[2] ? 0 : std::min((g.in[2] - in2 + stride - 1) / stride, count);
            to = std::max(from, to);
          }
          // Without the test, computing a pointer outside the image would already be undefined behavior.
          if (to > from) {
            const uint64_t* seen = source + (column + in2 + from * stride) * pixel_words;
            const int64_t step = stride * pixel_words;
            const int64_t n = to - from;
            if (words == 1) {
              CopyWords(target + from, seen, step, n, shift);
            } else {
              for (int64_t p = 0; p < n; ++p) {
                for (int64_t w = 0; w < words; ++w) target[w * pixels + from + p] = seen[p * step + w];
              }
            }
          }
          for (int64_t p = 0; p < from; ++p) Outside(target + p, into + p, tap, shift);
          for (int64_t p = to; p < count; ++p) Outside(target + p, into + p, tap, shift);
        }
      }
    }
  }

  void Outside(uint64_t* target, int64_t pixel, int32_t tap, int shift) {
    any_outside_ = true;
    // With a shift, the bits of this tap are still 0.
    for (int64_t w = 0; shift == 0 && w < g_.words(); ++w) target[w * pixels_] = 0;
    outside_[pixel * g_.taps() + outside_count_[pixel]++] = tap;
  }

  const Geometry& g_;
  int64_t group_ = -1, first_ = -1, pixels_ = 0;
  std::unique_ptr<uint64_t[]> gathered_;
  // For each pixel, the taps that are outside the image.
  std::unique_ptr<int32_t[]> outside_;
  std::vector<int64_t> outside_count_;
  bool any_outside_ = false;
};

// Applies the epilogue to the sums, (pixels, kBlock), of output pixels from `first` on.
void Finish(const Geometry& g, const Epilogue& epilogue, const Isa& isa, int64_t group, int64_t block, int64_t first,
            int pixels, const int32_t* sums, int worker) {
  const int64_t channel = block * kBlock;
  const int features = static_cast<int>(std::min<int64_t>(kBlock, g.features - channel));
  const int64_t all = g.output_features(), parts = g.output_words() * 4;
  if (epilogue.sums != nullptr) {
    int32_t* out = epilogue.sums->out + first * all + group * g.features + channel;
    for (int p = 0; p < pixels; ++p, out += all, sums += kBlock) {
      // Two calls, because memcpy of a constant size compiles to a move.
      if (features == kBlock) {
        std::memcpy(out, sums, sizeof(int32_t) * kBlock);
      } else {
        std::memcpy(out, sums, sizeof(int32_t) * features);
      }
    }
    return;
  }
  if (epilogue.moments != nullptr) {
    const int64_t padded = g.groups * g.blocks() * kBlock;
    int64_t* totals = epilogue.moments->totals + 2 * worker * padded + (group * g.blocks() + block) * kBlock;
    isa.unit.moments({sums, pixels, features, epilogue.moments->out + first * all + group * g.features + channel, all,
                      totals, totals + padded});
    return;
  }
  uint64_t* words = epilogue.affine != nullptr ? epilogue.affine->bits : epilogue.thresholds->bits;
  // Each block writes its own 16-bit part of a word.
  uint16_t* bits = reinterpret_cast<uint16_t*>(words) + first * parts + block;
  if (epilogue.affine != nullptr) {
    const Affine& a = *epilogue.affine;
    isa.affine({sums, pixels, features, a.alpha + channel, a.mean + channel, a.factor + channel, a.bias + channel,
                a.shortcut == nullptr ? nullptr : a.shortcut + first * all + channel, a.out + first * all + channel, all,
                a.clamp, bits, parts});
  } else {
    const Thresholds& t = *epilogue.thresholds;
    isa.thresholds({sums, pixels, features, t.threshold + channel, t.direction + channel, bits, parts});
  }
  if (block == g.blocks() - 1) {
    for (int p = 0; p < pixels; ++p) std::fill(bits + p * parts + 1, bits + p * parts + parts - block, uint16_t{0});
  }
}

}  // namespace

void BinaryConv(const Geometry& g, const uint64_t* x, const Kernel& kernel, const Epilogue& epilogue, const Isa& isa,
                const Workers& workers) {
  const int64_t pixels = g.pixels(), blocks = g.blocks();
  if (pixels == 0 || g.features == 0) return;
  // All tiles have nearly the same size: 49 pixels make five tiles of 9 or 10 pixels, not four of 12 and one of 1.
  const int64_t tiles = (pixels + isa.max_pixels - 1) / isa.max_pixels;
  const int64_t most_items = workers.threads > 1 ? kItemsPerThread * workers.threads : 1;
  // Tiles of a strip: as many as fit into the first-level cache, and few enough that every item has a step.
  const int64_t fit = std::clamp<int64_t>(kStripBytes / (8 * g.depth() * isa.max_pixels), 1, kStripTiles);
  const int64_t most = std::clamp<int64_t>(g.groups * tiles * blocks / most_items, 1, fit);
  const int64_t strips = (tiles + most - 1) / most;

  std::vector<std::unique_ptr<Strip>> of_worker(workers.threads);
  const auto step = [&](int64_t index, Strip& strip, int worker) {
    const int64_t block = index % blocks, at = index / blocks % strips, group = index / blocks / strips;
    const int64_t first_tile = at * tiles / strips, last_tile = (at + 1) * tiles / strips;
    const int64_t first = first_tile * pixels / tiles, panel = group * blocks + block;
    strip.Gather(x, group, first, last_tile * pixels / tiles);
    for (int64_t tile = first_tile; tile < last_tile; ++tile) {
      const int64_t from = tile * pixels / tiles;
      const int count = static_cast<int>((tile + 1) * pixels / tiles - from);
      alignas(64) int32_t sums[16 * kBlock];
      strip.Count(isa, from - first, count, kernel.panels + panel * g.depth() * kBlock,
                  kernel.tap_sums + panel * g.taps() * kBlock, sums);
      Finish(g, epilogue, isa, group, block, from, count, sums, worker);
    }
  };
  // A step computes 16 output channels of one strip. A strip is gathered again only if an item begins within its steps.
  const int64_t steps = g.groups * strips * blocks;
  const int64_t items = std::min(steps, most_items);
  workers.Each(items, [&](int64_t item, int worker) {
    std::unique_ptr<Strip>& strip = of_worker[worker];
    if (strip == nullptr) strip = std::make_unique<Strip>(g, most * isa.max_pixels);
    for (int64_t i = item * steps / items; i < (item + 1) * steps / items; ++i) step(i, *strip, worker);
  });
}

void PackSigns(const float* x, int64_t rows, int64_t channels, const float* norm, uint64_t* words, const Isa& isa,
               const Workers& workers) {
  const int64_t row_words = (channels + 63) / 64;
  // Packing fewer numbers than this takes less time than waking another thread.
  constexpr int64_t kWorthAThread = 1 << 15;
  const int64_t calls = std::min(rows, 1 + rows * channels / kWorthAThread);
  const auto part = [&](int64_t call, int) {
    const int64_t first = call * rows / calls, last = (call + 1) * rows / calls;
    isa.pack(x + first * channels, last - first, channels, norm, words + first * row_words);
  };
  workers.Each(calls, part);
}

}  // namespace recu
