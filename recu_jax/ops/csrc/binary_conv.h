// Convolves signs by xor and popcount over packed channels, and computes the operations that follow in a network.
//
// A sign is a bit: 1 for +1, 0 for -1. A product of two signs is -1 if their bits differ. So the sum of n products is
// n - 2 popcount(x xor w). Channels are packed into 64-bit words, and each group begins a new word. The bits after the
// last channel are 0 on both sides, so they never differ. Taps outside the image add 0 to a sum (SPEC.md section 2).

#pragma once

#include <cstdint>

#include "workers.h"

namespace recu {

// Output channels per pass over the gathered pixels: two AVX-512 registers of 64-bit counters.
constexpr int kBlock = 16;

// Geometry with three spatial dimensions. A convolution with fewer dimensions has size 1 in the first ones.
struct Geometry {
  int64_t batch = 1;
  int64_t in[3] = {1, 1, 1};
  int64_t out[3] = {1, 1, 1};
  int64_t window[3] = {1, 1, 1};
  int64_t stride[3] = {1, 1, 1};
  int64_t dilation[3] = {1, 1, 1};
  int64_t low[3] = {0, 0, 0};  // padding before the image; `out` implies the padding after it
  int64_t groups = 1;
  int64_t channels = 0;  // input channels of a group
  int64_t features = 0;  // output channels of a group

  int64_t words() const { return (channels + 63) / 64; }
  int64_t blocks() const { return (features + kBlock - 1) / kBlock; }
  int64_t taps() const { return window[0] * window[1] * window[2]; }
  // Taps that share a word of the gathered input: a power of 2, as many as fit into 64 bits.
  int64_t word_taps() const { return channels > 32 ? 1 : channels > 16 ? 2 : channels > 8 ? 4 : 8; }
  // Words of an output pixel's gathered input.
  int64_t depth() const { return (taps() + word_taps() - 1) / word_taps() * words(); }
  int64_t pixels() const { return batch * out[0] * out[1] * out[2]; }
  int64_t input_words() const { return batch * in[0] * in[1] * in[2] * groups * words(); }
  int64_t output_features() const { return groups * features; }
  // 64-bit words per pixel of packed output.
  int64_t output_words() const { return (output_features() + 63) / 64; }
};

// Weights in the layout of recu_jax.ops.packed.arrange_kernel.
struct Kernel {
  // (groups, blocks, depth, kBlock). If a word has several taps, the first one has the lowest bits.
  const uint64_t* panels;
  const int32_t* tap_sums;  // (groups, blocks, taps, kBlock): what a tap adds where all input signs are -1
};

// Writes integer sums, (pixels, output_features).
struct Sums {
  int32_t* out;
};

// Writes `direction * sum >= threshold` as bits, (pixels, output_words). One group only.
struct Thresholds {
  const int32_t* threshold;  // (blocks, kBlock)
  const int32_t* direction;  // (blocks, kBlock): +1 or -1
  uint64_t* bits;
};

// Writes fma(fma(sum, alpha, -mean), factor, bias) + shortcut, optionally clamped, and the signs of this result. One
// group only.
struct Affine {
  const float* alpha = nullptr;  // (blocks, kBlock), like mean, factor and bias
  const float* mean = nullptr;
  const float* factor = nullptr;
  const float* bias = nullptr;
  const float* shortcut = nullptr;  // (pixels, output_features), or null
  bool clamp = false;               // whether to clamp to [-1, 1]
  float* out = nullptr;             // (pixels, output_features)
  uint64_t* bits = nullptr;         // (pixels, output_words)
};

// Writes sums as int16, (pixels, output_features), and adds the sums and their squares to totals per channel.
struct Moments {
  int16_t* out;
  int64_t* totals;  // (workers, 2, groups * blocks, kBlock)
};

// The operation on the sums of the convolution. Exactly one pointer is not null.
struct Epilogue {
  const Sums* sums = nullptr;
  const Thresholds* thresholds = nullptr;
  const Affine* affine = nullptr;
  const Moments* moments = nullptr;
};

struct Isa;

// Convolves x, (batch, *in, groups * words), and applies the epilogue.
void BinaryConv(const Geometry& geometry, const uint64_t* x, const Kernel& kernel, const Epilogue& epilogue,
                const Isa& isa, const Workers& workers);

// Packs the signs of x, (rows, channels), into (rows, words). Bit c of a row is x[c] >= 0. Bits after the last channel
// are 0. If `norm`, (3, channels), is not null, x is normalized first: fma(x - mean, factor, bias).
void PackSigns(const float* x, int64_t rows, int64_t channels, const float* norm, uint64_t* words, const Isa& isa,
               const Workers& workers);

}  // namespace recu
