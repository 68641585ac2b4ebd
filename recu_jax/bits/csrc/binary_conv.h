// Convolution of signs as xor and popcount, over packed channels, with what follows it in a network.
//
// A sign is a bit: 1 for +1, 0 for -1. Of n products of signs, those whose bits differ are -1, so their sum is
// n - 2 popcount(x xor w). Channels are packed into 64-bit words, each group's from a word of its own; bits beyond the
// last channel are 0 on both sides and so never differ. Taps outside the image count nothing (SPEC.md section 2).

#pragma once

#include <cstdint>

#include "workers.h"

namespace recu {

// Output channels that one pass over the gathered pixels serves: two AVX-512 registers of 64-bit counters.
constexpr int kBlock = 16;

// Three spatial dimensions; fewer are made up with ones in front. All counts are per image or per group.
struct Geometry {
  int64_t batch = 1;
  int64_t in[3] = {1, 1, 1};
  int64_t out[3] = {1, 1, 1};
  int64_t window[3] = {1, 1, 1};
  int64_t stride[3] = {1, 1, 1};
  int64_t dilation[3] = {1, 1, 1};
  int64_t low[3] = {0, 0, 0};  // padding before; what follows it is how many outputs there are
  int64_t groups = 1;
  int64_t channels = 0;  // input channels of a group
  int64_t features = 0;  // output channels of a group

  int64_t words() const { return (channels + 63) / 64; }
  int64_t blocks() const { return (features + kBlock - 1) / kBlock; }
  int64_t taps() const { return window[0] * window[1] * window[2]; }
  int64_t depth() const { return taps() * words(); }
  int64_t pixels() const { return batch * out[0] * out[1] * out[2]; }
  int64_t input_words() const { return batch * in[0] * in[1] * in[2] * groups * words(); }
  int64_t output_features() const { return groups * features; }
  // 64-bit words of a pixel of packed output.
  int64_t output_words() const { return (output_features() + 63) / 64; }
};

// Weights, laid out by recu_jax.bits.ops.arrange_kernel.
struct Kernel {
  const uint64_t* panels;   // (groups, blocks, depth, kBlock)
  const int32_t* tap_sums;  // (groups, blocks, taps, kBlock): what a tap adds where the image is all -1
};

// Integer sums, (pixels, output_features).
struct Sums {
  int32_t* out;
};

// Bits, (pixels, output_words): direction * sum >= threshold. One group only.
struct Thresholds {
  const int32_t* threshold;  // (blocks, kBlock)
  const int32_t* direction;  // (blocks, kBlock): +1 or -1
  uint64_t* bits;
};

// The real numbers fma(fma(sum, alpha, -mean), factor, bias) + shortcut, clamped, and their signs. One group only.
struct Affine {
  const float* alpha;  // (blocks, kBlock) each
  const float* mean;
  const float* factor;
  const float* bias;
  const float* shortcut;  // (pixels, output_features), or null
  bool clamp;             // to [-1, 1]
  float* out;             // (pixels, output_features)
  uint64_t* bits;         // (pixels, output_words)
};

// What is done with the sums; exactly one is set.
struct Epilogue {
  const Sums* sums = nullptr;
  const Thresholds* thresholds = nullptr;
  const Affine* affine = nullptr;
};

struct Isa;

// Reads x, (batch, *in, groups * words), and does what the epilogue says with its convolution.
void BinaryConv(const Geometry& geometry, const uint64_t* x, const Kernel& kernel, const Epilogue& epilogue,
                const Isa& isa, const Workers& workers);

// Signs of x, (rows, channels), as (rows, words): bit c of a row is x[c] >= 0, the bits after the last channel are 0.
// Unless `norm`, (3, channels), is null, x is normalised first: fma(x - mean, factor, bias).
void PackSigns(const float* x, int64_t rows, int64_t channels, const float* norm, uint64_t* words, const Isa& isa,
               const Workers& workers);

}  // namespace recu
