// Computes a training unit: hardtanh(norm(alpha * conv(sign(x), sign(w))) + shortcut), or the same without hardtanh. norm
// is batch norm, and the gradient of the signs is as in SPEC.md section 2. A new pass over the arrays is needed only after
// a sum over the batch.

#pragma once

#include "binary_conv.h"

namespace recu {

// Packs the signs of x, (batch, *in, groups * channels), into words. Writes the sums of the convolution, (pixels,
// output_features), and moments, (2, output_features): mean and biased variance of the sums per channel. If x holds a
// NaN, all moments are NaN. taps * channels must be at most 8192, because the squares of a tile's sums are added up in
// int32.
void UnitSums(const Geometry& geometry, const float* x, const Kernel& kernel, uint64_t* words, int16_t* sums,
              float* moments, const Isa& isa, const Workers& workers);

// A bit for each of `count` numbers, and bytes after them so that a run can be read as whole words.
inline int64_t BytesOfBits(int64_t count) { return count / 8 + 8; }

// z = (sums - mean) * factor + bias + shortcut, with `clamp` clamped to [-1, 1]. sums, shortcut and z are (rows,
// features), coefficients is (3, features): mean, factor, bias. shortcut may be null. inside has BytesOfBits(rows *
// features): a bit is 1 where the number before the clamp is inside (-1, 1), and everywhere without `clamp`. The
// gradients read these bits in place of z.
void UnitNormalize(int64_t rows, int64_t features, const int16_t* sums, const float* coefficients,
                   const float* shortcut, bool clamp, float* z, uint8_t* inside, const Isa& isa,
                   const Workers& workers);

// Computes the unit in evaluation, where nothing depends on sums over the batch: packs x, (batch, *in, channels),
// convolves, and applies `affine` with its clamp. The results equal those of the epilogue `Affine` bit for bit.
// affine.out is (pixels, features); affine.bits is not used. With `identity`, the shortcut is x. If a sample of x holds
// a NaN, all its results are NaN. One group only.
void UnitEvaluate(const Geometry& geometry, const float* x, const Kernel& kernel, const Affine& affine, bool identity,
                  const Isa& isa, const Workers& workers);

// Writes the sums of g and of g * (sums - mean) over the rows to out, (2, features). g is dz where the bit of `inside`,
// from UnitNormalize, is 1, and 0 elsewhere. The order of the sums depends only on the sizes, not on the threads.
void UnitGradientSums(int64_t rows, int64_t features, const float* dz, const uint8_t* inside, const int16_t* sums,
                      const float* mean, float* out, const Isa& isa, const Workers& workers);

// Arguments of UnitGradients. d = g * coefficients[1] + (sums - coefficients[0]) * coefficients[2] + coefficients[3] is
// the gradient of alpha * conv, with the g of UnitGradientSums.
struct UnitGradientCall {
  const float* x;
  const uint64_t* words;
  const uint64_t* kernel;     // packed, (groups * features, taps, words)
  const float* alpha;         // (output_features)
  const float* dz;
  const uint8_t* inside;      // from UnitNormalize
  const int16_t* sums;
  const float* coefficients;  // (4, output_features)
  bool identity;              // whether the shortcut is x; the shortcut's gradient is then added to dx
  float* dx;
  float* dkernel;             // kernel gradient of conv without alpha, (taps, channels, output_features)
  float* dshortcut;           // or null
};
void UnitGradients(const Geometry& geometry, const UnitGradientCall& call, const Isa& isa, const Workers& workers);

}  // namespace recu
