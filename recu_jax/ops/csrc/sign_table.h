// The 8 signs in each byte, as floats, for instruction sets of which one load is faster than computing the signs from
// bits: that takes several instructions.

#pragma once

namespace recu {

// The compiler fills the table. Code that fills it when the library is loaded would also run on processors without the
// instruction set of its file.
struct SignTable {
  alignas(32) float signs[256][8];
  constexpr SignTable() : signs() {
    for (int i = 0; i < 256 * 8; ++i) signs[i / 8][i % 8] = i / 8 >> i % 8 & 1 ? 1.f : -1.f;
  }
};
constexpr SignTable kSignTable;

}  // namespace recu
