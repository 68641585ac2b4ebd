// Computes parts of the two gradients of a convolution of signs: what some output rows add to the kernel gradient, and
// some rows of the input gradient.

#pragma once

#include <cstdint>
#include <vector>

#include "binary_conv.h"
#include "isa.h"

namespace recu {

constexpr int64_t kLanes = 16;  // channels per vector

inline int64_t CeilOf(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Computes what some output rows add to the kernel gradient of 16 features. Sums have the axes (taps, pairs, 16
// features, vectors, 16 channels). A pair is one or two vectors of 16 channels.
class KernelPart {
 public:
  explicit KernelPart(const Geometry& g)
      : g_(g), vectors_(g.channels > kLanes ? 2 : 1), pairs_(CeilOf(g.channels, kLanes * vectors_)) {}

  int64_t size() const { return g_.taps() * pairs_ * kLanes * vectors_ * kLanes; }

  // Adds the contribution of output rows to the sums. Rows are numbered over batch and outer dimensions.
  void Add(const uint64_t* x, const float* dy, int64_t group, int64_t block, int64_t first_row, int64_t last_row,
           const Isa& isa, float* sums) const;

  // Adds up the sums of all slices of the rows, and writes the result in the kernel's layout.
  void Finish(const float* parts, int64_t slices, int64_t slice_step, int64_t group, int64_t block, float* out) const;

 private:
  void AddTile(const uint64_t* x, int64_t group, int64_t first_row, int64_t rows, const Isa& isa, const float* numbers,
               OuterRun* runs, float* sums) const;

  const Geometry& g_;
  const int64_t vectors_, pairs_;
};

// Transposes the words of a kernel, (groups, features, taps, words), to 16-bit parts in the order of the inner loop of
// InputRows, (groups, parts, taps, features).
std::vector<uint16_t> TurnedKernel(const Geometry& g, const uint64_t* kernel);

// Computes rows of an input gradient. `numbers_` is dy times alpha with zeros on both sides, so that every tap of every
// pixel of a row reads a number.
class InputRows {
 public:
  // kernel is the result of TurnedKernel; alpha is (groups * features) or null.
  InputRows(const Geometry& g, const uint16_t* kernel, const float* alpha, const Isa& isa);

  // Computes one row of one group of out from dy. Rows are numbered over batch and outer dimensions.
  void Row(const float* dy, int64_t row, int64_t group, float* out);

 private:
  // Hits tells whether tap k of some output position, perhaps outside the output, reads input position i. Output
  // returns this output position. Inside also checks that it is within the output.
  bool Hits(int d, int64_t i, int64_t k) const { return (i + g_.low[d] - k * g_.dilation[d]) % g_.stride[d] == 0; }
  int64_t Output(int d, int64_t i, int64_t k) const { return (i + g_.low[d] - k * g_.dilation[d]) / g_.stride[d]; }
  bool Inside(int d, int64_t i, int64_t k) const {
    return Hits(d, i, k) && Output(d, i, k) >= 0 && Output(d, i, k) < g_.out[d];
  }

  void Phase(int64_t row, int64_t group, int64_t phase, float* out);

  const Geometry& g_;
  const uint16_t* kernel_;  // (groups, parts, taps, features)
  const float* alpha_;
  const Isa& isa_;
  int64_t step_, low_ = 0, high_ = 0, width_;
  std::vector<float> numbers_;
  std::vector<int64_t> slots_;
  std::vector<OuterRun> runs_;
};

}  // namespace recu
