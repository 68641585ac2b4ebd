// The inner loops, once for each instruction set; which of them run is decided at run time.

#pragma once

#include <cstdint>

namespace recu {

// The sums of one tile and 16 output channels, of which each pixel's taps outside the image are to be taken off.
struct BorderTile {
  int pixels;
  const int64_t* counts;    // (pixels): of taps outside
  const int32_t* outside;   // (pixels, taps): which, the first `counts` of each row
  int64_t taps;
  const int32_t* tap_sums;  // (taps, 16)
  int32_t* sums;            // (pixels, 16)
};

// The sums of one tile and 16 output channels, and where their results go.
struct AffineTile {
  const int32_t* sums;  // (pixels, 16)
  int pixels;
  int features;  // of the 16, how many there are
  const float* alpha;  // 16 each
  const float* mean;
  const float* factor;
  const float* bias;
  const float* shortcut;  // of the first pixel, or null
  float* out;             // of the first pixel
  int64_t stride;         // floats from pixel to pixel, of out and shortcut
  bool clamp;
  uint16_t* bits;  // of the first pixel
  int64_t bits_stride;  // 16-bit parts from pixel to pixel
};

struct ThresholdTile {
  const int32_t* sums;
  int pixels;
  int features;
  const int32_t* threshold;
  const int32_t* direction;
  uint16_t* bits;
  int64_t bits_stride;
};

// Some steps of a sum of outer products: signs of 16-bit parts times numbers.
struct OuterRun {
  const uint16_t* bits;
  const float* numbers;
  int64_t count;
};

// How far it is to the next step, and within a step from vector to vector and from row to row.
struct OuterSteps {
  int64_t bits;
  int64_t bits_vector;
  int64_t number;
  int64_t number_row;
};

struct Isa {
  const char* name;
  // Pixels that `count` takes at most.
  int max_pixels;
  // sums (pixels, 16) = all - 2 * (sum over d of popcount(gathered[d][pixel] ^ panel[d][channel])).
  void (*count)(const uint64_t* gathered, const uint64_t* panel, int64_t depth, int pixels, int32_t all,
                int32_t* sums);
  void (*border)(const BorderTile&);
  void (*affine)(const AffineTile&);
  void (*thresholds)(const ThresholdTile&);
  // Signs of channels floats, into (channels + 63) / 64 words. Unless `norm`, mean, factor and bias (3, channels), is
  // null, of (x - mean) * factor + bias.
  void (*pack)(const float* x, int64_t channels, const float* norm, uint64_t* words);
  // sums (rows, vectors, 16) += over the steps of all runs of numbers[row] * sign[vector]; rows <= 16, vectors <= 2.
  void (*outer)(int rows, int vectors, const OuterRun* runs, int count, const OuterSteps& steps, float* sums);
};

const Isa& PortableIsa();
// Null where the compiler or the processor does not have it.
const Isa* Avx2Isa();
const Isa* Avx512Isa();

// By name, "portable", "avx2" or "avx512"; null where there is none. The fastest for an empty name.
const Isa* FindIsa(const char* name);

}  // namespace recu
