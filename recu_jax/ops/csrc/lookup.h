// Sums of products of signs and numbers, four at a time. Each isa_*.cc includes this file within its target region and
// unnamed namespace, after tile.h.
//
// The sum of four numbers with any signs has 16 possible values. A table holds them for four numbers; a code says by four
// signs which one is wanted. So four products of a lane take one lookup and one addition, where multiply-adds would take
// four. On the processors with AVX-512 and AVX2 that were tried, both gradients of a convolution take half the time.
//
// A table of a, b, c, d holds d + t at 0 to 7, where t is +-c +-b +-a, with + for a bit that is 1: bit 0 for a, bit 2 for
// c. With 16 numbers it holds their negatives at 8 to 15. A code is an index into these 16 numbers; if its bit 3 is set,
// its bit 7 is set too. `Codes` in gradient_parts.h makes codes of signs.
//
// In addition to the functions for tile.h, an isa_*.cc must define:
// - kTable, the length of a table, 8 or 16; MakeTable(a, b, c, d, float* table) of pointers, which computes ((d +- a) +- b) +- c;
// - Index, and IndexOf(const uint8_t*), the codes of 16 lanes; AddLookup(sum, table, index);
// - kLookupRows, the number of rows whose sums fit into the registers.

void MakeCodes(const uint64_t* spread, int64_t distance, int64_t count, uint64_t* __restrict codes) {
  constexpr uint64_t kOnes = 0x0101010101010101;
  for (int64_t i = 0; i < count; ++i) {
    // Computes with eight bytes at once. No byte overflows.
    const uint64_t low = spread[i] | spread[i + distance] << 1 | spread[i + 2 * distance] << 2;
    const uint64_t negated = spread[i + 3 * distance] ^ kOnes;
    codes[i] = (low ^ (negated | negated << 1 | negated << 2)) | negated << 3 | negated << 7;
  }
}

void MakeTables(const float* numbers, int64_t step, int64_t rows, int64_t row_step, float* tables) {
  for (int64_t row = 0; row < rows; ++row, numbers += row_step, tables += kTable) {
    MakeTable(numbers, numbers + step, numbers + 2 * step, numbers + 3 * step, tables);
  }
}

// Computes the sums of P rows.
template <int P>
inline void LookupOf(const LookupRun* runs, int count, const LookupSteps& steps, int64_t first, float* sums) {
  Vector s[P];
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) s[p] = Load(sums + 16 * p);
  for (int r = 0; r < count; ++r) {
    const uint8_t* __restrict codes = runs[r].codes;
    const float* __restrict tables = runs[r].tables + first * kTable;
    for (int64_t k = 0; k < runs[r].count; ++k, codes += steps.codes, tables += steps.table) {
      const Index index = IndexOf(codes);
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) s[p] = AddLookup(s[p], tables + p * kTable, index);
    }
  }
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) Store(sums + 16 * p, s[p]);
}

template <int P>
inline void LookupUpTo(int rows, const LookupRun* runs, int count, const LookupSteps& steps, int64_t first,
                       float* sums) {
  if constexpr (P > 0) {
    if (rows == P) return LookupOf<P>(runs, count, steps, first, sums);
    LookupUpTo<P - 1>(rows, runs, count, steps, first, sums);
  }
}

// Splits the rows into blocks of nearly the same size that fit into the registers.
void Lookup(int rows, const LookupRun* runs, int count, const LookupSteps& steps, float* sums) {
  const int blocks = (rows + kLookupRows - 1) / kLookupRows;
  for (int b = 0; b < blocks; ++b) {
    const int first = b * rows / blocks, last = (b + 1) * rows / blocks;
    LookupUpTo<kLookupRows>(last - first, runs, count, steps, first, sums + 16 * first);
  }
}
