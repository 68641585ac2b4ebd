// The 8 signs in each possible byte, as floats. This table serves instruction sets that need several instructions to
// compute signs from bits: one load from the table is faster.

#pragma once

namespace recu {

// The compiler fills the table. Code that fills it when the library is loaded would use the instruction set of its
// file, and would run on processors without this instruction set too.
struct SignTable {
  alignas(32) float signs[256][8];
  constexpr SignTable() : signs() {
    for (int i = 0; i < 256 * 8; ++i) signs[i / 8][i % 8] = i / 8 >> i % 8 & 1 ? 1.f : -1.f;
  }
};
constexpr SignTable kSignTable;

}  // namespace recu
