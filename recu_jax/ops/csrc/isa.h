// Declares the inner loops, which are compiled once for each instruction set. The program chooses the set at run time.

#pragma once

#include <cstdint>

namespace recu {

// Sums of one tile and 16 output channels, from which the contributions of taps outside the image are subtracted.
struct BorderTile {
  int pixels;
  const int64_t* counts;    // (pixels): number of taps outside
  const int32_t* outside;   // (pixels, taps): taps outside, the first `counts` of each row
  int64_t taps;
  const int32_t* tap_sums;  // (taps, 16)
  int32_t* sums;            // (pixels, 16)
};

// Sums of one tile and 16 output channels, and the arrays for the results.
struct AffineTile {
  const int32_t* sums;  // (pixels, 16)
  int pixels;
  int features;  // used channels of the 16
  const float* alpha;  // 16 numbers, like mean, factor and bias
  const float* mean;
  const float* factor;
  const float* bias;
  const float* shortcut;  // at the first pixel, or null
  float* out;             // at the first pixel
  int64_t stride;         // distance between pixels of out and shortcut, in floats
  bool clamp;
  uint16_t* bits;  // at the first pixel
  int64_t bits_stride;  // distance between pixels, in 16-bit parts
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

// Steps of a sum of products. Each step has four products of each lane: codes of 16 lanes, and a table for each row.
// lookup.h describes both.
struct LookupRun {
  const uint8_t* codes;
  const float* tables;
  int64_t count;
};

// Distances to the next step. Within a step the tables of the rows follow each other.
struct LookupSteps {
  int64_t codes;
  int64_t table;
};

// The declarations from here to UnitIsa belong to the training units of unit.h. A run is a sequence of numbers.

// Sums of one tile and 16 output channels, which are stored as int16 and added up.
struct MomentTile {
  const int32_t* sums;  // (pixels, 16)
  int pixels;
  int features;      // used channels of the 16
  int16_t* out;      // at the first pixel
  int64_t stride;    // distance between pixels of out
  int64_t* totals;   // (16)
  int64_t* squares;  // (16)
};

// A run of numbers to normalize. mean, factor and bias have one coefficient for each number.
struct NormalizeTile {
  int64_t count;
  const int16_t* sums;
  const float* mean;
  const float* factor;
  const float* bias;
  const float* shortcut;  // or null
  bool clamp;
  float* z;
  uint8_t* inside;  // a bit for each number, the lowest bit first
};

// A bit for each number of a run. Up to three bytes after the last bit are read.
struct Bits {
  const uint8_t* bytes;
  int64_t first;  // number of the run's first bit
};

// A run of numbers of the gradient of a normalization.
struct GradientTile {
  int64_t count;
  const float* dz;
  Bits inside;
  const int16_t* sums;
  const float* mean;
};

// One sample of the gradient of sign(x / standard deviation).
struct SignTile {
  const float* x;
  float* dsigns;    // the gradient of the signs; overwritten
  const float* dz;  // if the shortcut is x, dz of GradientTile: its gradient is added to dx; otherwise null
  Bits inside;      // of the sample
  float* dx;
};

struct UnitIsa {
  bool (*has_nan)(const float* x, int64_t count);
  // Adds up the squares of a tile's sums in int32, so the total per channel must fit into int32.
  void (*moments)(const MomentTile&);
  // z = (sums - mean) * factor + bias + shortcut, with `clamp` clamped to [-1, 1]. A bit of `inside` is 1 where the
  // number before the clamp is inside (-1, 1), and everywhere without `clamp`.
  void (*normalize)(const NormalizeTile&);
  // Adds g to totals and g * (sums - mean) to products. g is dz where the bit of `inside` is 1, and 0 elsewhere.
  void (*gradient_sums)(const GradientTile&, float* totals, float* products);
  // out = g * of_gradient + (sums - mean) * of_sum + constant, with the g of gradient_sums. Writes g to `unclamped`
  // unless this is null.
  void (*norm)(const GradientTile&, const float* of_gradient, const float* of_sum, const float* constant, float* out,
               float* unclamped);
  void (*signs)(const SignTile&, int64_t count);
};

// Latent weights of some output channels. A row has one weight of each channel.
struct WeightTile {
  const float* weights;  // at the first channel of the first row
  int64_t rows;
  int64_t stride;  // distance between rows
  int channels;    // at most kWeightChannels
};
// For 512 channels, tiles of 64 are faster than tiles of 32 or 128 (experiments/results/kernel_trials). A tile of 4,608
// rows, as in ResNet-18, takes 1.2 MB. A tile is the work of one thread.
constexpr int kWeightChannels = 64;

// The standardized weights are (w - mean) * scale. mean, scale and magnitudes have a number for each channel.
struct WeightsIsa {
  // scale = spread / sqrt(variance + epsilon), magnitudes = the sum of the magnitudes of the standardized weights.
  void (*signs)(const WeightTile&, float spread, float epsilon, float* mean, float* scale, float* magnitudes,
                float* signs);
  // Writes the gradient of the weights to `out`. `gradient` is the gradient of the signs. It counts only where the
  // magnitude of the standardized weight is at most `bound`. `gradient`, `signs` and `out` point at the tile's first
  // channel and have its stride.
  void (*gradient)(const WeightTile&, const float* gradient, float spread, float bound, const float* mean,
                   const float* scale, float* out);
};

struct Isa {
  const char* name;
  // Largest number of pixels for `count`.
  int max_pixels;
  // sums (pixels, 16) = all - 2 * (sum over d of popcount(gathered[d * stride + pixel] ^ panel[d][channel])).
  void (*count)(const uint64_t* gathered, int64_t stride, const uint64_t* panel, int64_t depth, int pixels, int32_t all,
                int32_t* sums);
  void (*border)(const BorderTile&);
  void (*affine)(const AffineTile&);
  void (*thresholds)(const ThresholdTile&);
  // Packs the signs of rows of `channels` floats, each into (channels + 63) / 64 words. If `norm` is not null, it holds
  // mean, factor and bias, (3, channels), and the signs are those of (x - mean) * factor + bias.
  void (*pack)(const float* x, int64_t rows, int64_t channels, const float* norm, uint64_t* words);
  int table_length;  // numbers in a table
  // Writes the codes of `count` times eight signs: numbers of 0 and 1 in the bytes of spread[i], spread[i + distance],
  // spread[i + 2 * distance] and spread[i + 3 * distance].
  void (*codes)(const uint64_t* spread, int64_t distance, int64_t count, uint64_t* codes);
  // Writes the tables of `rows` times four numbers; `step` is the distance of the four in a row.
  void (*tables)(const float* numbers, int64_t step, int64_t rows, int64_t row_step, float* tables);
  // sums (rows, 16) += table[row][code[lane]], over the steps of all runs; rows <= 16.
  void (*lookup)(int rows, const LookupRun* runs, int count, const LookupSteps& steps, float* sums);
  UnitIsa unit;
  WeightsIsa weights;
};

const Isa& PortableIsa();
// Null if the compiler or the processor does not support the instruction set.
const Isa* Avx2Isa();
const Isa* Avx512Isa();
const Isa* NeonIsa();

// Names of all sets, fastest first.
constexpr const char* kIsaNames[] = {"avx512", "avx2", "neon", "portable"};

// Finds a set by its name; returns null if it is not supported. An empty name finds the fastest one.
const Isa* FindIsa(const char* name);

}  // namespace recu
