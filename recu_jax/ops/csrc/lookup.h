// Sums of products of signs and numbers, four products at a time. Each isa_*.cc includes this file within its target
// region and unnamed namespace, after tile.h.
//
// Four numbers with any signs have 16 possible sums. A table holds these sums. A code is made of four signs, and says
// which of the sums a lane adds. So four products take a lookup and an addition, and not four multiply-adds. Two cores
// with AVX-512 computed both gradients of a layer of 256 channels in 22 ms; with multiply-adds it took them 35 ms.
//
// The table of a, b, c and d has at i, from 0 to 7, the sum d +- a +- b +- c. The bits 0, 1 and 2 of i are 1 where a, b
// and c are added, and 0 where they are subtracted. A table of 16 numbers has the negatives of these sums at 8 to 15.
// A code has the index in a table of 16 numbers in its lowest four bits. Bit 7 equals bit 3: it says whether the sum at
// the index in the lowest three bits is negated.
//
// In addition to the functions for tile.h, an isa_*.cc must define:
// - kTable, the length of a table, 8 or 16;
// - MakeTable(a, b, c, d, table), whose arguments are pointers. It computes ((d +- a) +- b) +- c in this order;
// - Index, and IndexOf(codes), which reads the codes of 16 lanes;
// - AddLookup(sum, table, index), a vector of sums plus the numbers of the table that the index names;
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
