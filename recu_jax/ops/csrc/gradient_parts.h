// Computes parts of the two gradients of a convolution of signs: what some output rows add to the kernel gradient, and
// some rows of the input gradient. Both look up sums of four numbers (lookup.h).

#pragma once

#include <cstdint>
#include <vector>

#include "binary_conv.h"
#include "isa.h"

namespace recu {

constexpr int64_t kLanes = 16;  // channels per vector
constexpr int64_t kQuad = 4;    // numbers of a table, and signs of a code

inline int64_t CeilOf(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A byte of 0 or 1 for each of eight bits.
struct SpreadTable {
  uint64_t bytes[256];
  // The compiler fills the table.
  constexpr SpreadTable() : bytes() {
    for (int i = 0; i < 256; ++i) {
      for (int bit = 0; bit < 8; ++bit) bytes[i] |= static_cast<uint64_t>(i >> bit & 1) << 8 * bit;
    }
  }
};
inline constexpr SpreadTable kSpread;

// Zeros that begin at a cache line, so that no table lies in two.
class Tables {
 public:
  explicit Tables(int64_t count) : numbers_(count + kLine) {}
  float* data() {
    const uintptr_t at = reinterpret_cast<uintptr_t>(numbers_.data()), bytes = kLine * sizeof(float);
    return reinterpret_cast<float*>((at + bytes - 1) / bytes * bytes);
  }

 private:
  static constexpr int64_t kLine = 16;
  std::vector<float> numbers_;
};

// Codes of the signs of rows of packed activations, for the kernel gradient. The code at a column has the signs of four
// input pixels, which four neighbors of an output row read with the same tap: this column and the next three at
// distances of the stride. Columns outside the image count as -1.
class PixelCodes {
 public:
  explicit PixelCodes(const Geometry& g);

  // Bytes of the codes of some rows, (rows, blocks, columns, 16 channels).
  int64_t size(int64_t rows) const { return rows * row_size(); }
  int64_t block_size() const { return columns_ * kLanes; }

  // Computes the codes of rows of x, (rows, columns, groups * words), numbered over batch and outer dimensions.
  void Fill(const uint64_t* x, int64_t first_row, int64_t last_row, const Isa& isa, uint8_t* codes) const;

  // Returns the codes of a block from `column` on, which may be before the image.
  const uint8_t* At(const uint8_t* codes, int64_t row, int64_t column, int64_t block) const {
    return codes + row * row_size() + block * block_size() + (lead_ + column) * kLanes;
  }
  // 16-channel blocks of a group.
  int64_t group_blocks() const { return blocks_ / g_.groups; }

 private:
  int64_t row_size() const { return blocks_ * block_size(); }

  const Geometry& g_;
  int64_t blocks_, lead_, columns_;
};

// Computes what some output rows add to the kernel gradient of 16 features. Sums have the axes (taps, channel blocks,
// 16 features, 16 channels).
class KernelPart {
 public:
  KernelPart(const Geometry& g, const PixelCodes& pixels) : g_(g), pixels_(pixels) {}

  int64_t size() const { return g_.taps() * pixels_.group_blocks() * kLanes * kLanes; }

  // Adds the contribution of output rows to the sums. Rows are numbered over batch and outer dimensions.
  void Add(const uint8_t* codes, const float* dy, int64_t group, int64_t block, int64_t first_row, int64_t last_row,
           const Isa& isa, float* sums) const;

  // Adds up the sums of all slices of the rows, and writes the result in the kernel's layout.
  void Finish(const float* parts, int64_t slices, int64_t slice_step, int64_t group, int64_t block, float* out) const;

 private:
  struct Tile;
  // Makes the tables of the output columns [from, to), with zeros for all others.
  void MakeTables(int64_t from, int64_t to, const Isa& isa, Tile* tile) const;
  void AddTap(const uint8_t* codes, int64_t group, int64_t tap, const Tile& tile, const Isa& isa, LookupRun* runs,
              float* sums) const;

  const Geometry& g_;
  const PixelCodes& pixels_;
};

// Codes of the signs of a kernel, (groups, features, taps, words), for the input gradient. A code has the signs of four
// features: (groups, channel blocks, taps, quads of features, 16 channels).
std::vector<uint8_t> KernelCodes(const Geometry& g, const uint64_t* kernel, const Isa& isa);

// Computes rows of an input gradient. `tables_` has the tables of rows of dy times alpha, with zeros on both sides, so
// that every tap of every pixel of a row reads a table.
class InputRows {
 public:
  // codes are KernelCodes; alpha is (groups * features) or null.
  InputRows(const Geometry& g, const uint8_t* codes, const float* alpha, const Isa& isa);

  // Sets dy for the next calls of Row.
  void Begin(const float* dy);

  // Computes one row of out. Rows are numbered over batch and outer dimensions. The tables of a row of dy are kept for
  // the next row of out, so call it for neighboring rows of a group one after the other.
  void Row(int64_t row, int64_t group, float* out);

 private:
  // Hits tells whether tap k of some output position, perhaps outside the output, reads input position i. Output
  // returns this output position. Inside also checks that it is within the output.
  bool Hits(int d, int64_t i, int64_t k) const { return (i + g_.low[d] - k * g_.dilation[d]) % g_.stride[d] == 0; }
  int64_t Output(int d, int64_t i, int64_t k) const { return (i + g_.low[d] - k * g_.dilation[d]) / g_.stride[d]; }
  bool Inside(int d, int64_t i, int64_t k) const {
    return Hits(d, i, k) && Output(d, i, k) >= 0 && Output(d, i, k) < g_.out[d];
  }
  float* TablesOf(int64_t slot, int64_t column) {
    return tables_.data() + (slot * quads_ * width_ + column) * isa_.table_length;
  }

  void MakeSlot(int64_t slot, int64_t dy_row, int64_t group);
  void Phase(int64_t row, int64_t group, int64_t phase, float* out);

  // A row of dy, and the taps of the outer dimensions that read it for the present row of out.
  struct Read {
    int64_t dy_row, tap, slot;
  };

  const Geometry& g_;
  const uint8_t* codes_;
  const float* alpha_;
  const Isa& isa_;
  const float* dy_ = nullptr;
  int64_t quads_, low_ = 0, high_ = 0, width_;
  Tables tables_{0};            // (slots, quads of features, width, table length)
  std::vector<int64_t> held_;   // for each slot, the row of dy and the group of its tables, or -1
  std::vector<Read> reads_;
  std::vector<float> numbers_;  // of one row of dy, with zeros up to a whole quad of features
  std::vector<LookupRun> runs_;
};

}  // namespace recu
