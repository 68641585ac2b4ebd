// Implements the inner loops with AVX2. AVX2 has no popcount instruction, so a byte shuffle looks up the count of each
// half byte.

#include "isa.h"
#include "x86_features.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#include <cmath>
#include <cstring>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

namespace recu {
namespace {

struct Vector {
  __m256 low, high;
};

inline __m256i LoadInts(const int32_t* x) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)); }

inline Vector Load(const float* x) { return {_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8)}; }
inline Vector LoadPart(const float* x, int n) {
  alignas(32) float part[16] = {};
  for (int i = 0; i < n; ++i) part[i] = x[i];
  return Load(part);
}
inline Vector FromInts(const int32_t* x) {
  return {_mm256_cvtepi32_ps(LoadInts(x)), _mm256_cvtepi32_ps(LoadInts(x + 8))};
}
inline void SubtractInts(int32_t* from, const int32_t* x) {
  for (int half = 0; half < 16; half += 8) {
    const __m256i rest = _mm256_sub_epi32(LoadInts(from + half), LoadInts(x + half));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(from + half), rest);
  }
}
inline void Store(float* to, const Vector& x) {
  _mm256_storeu_ps(to, x.low);
  _mm256_storeu_ps(to + 8, x.high);
}
inline void StorePart(float* to, const Vector& x, int n) {
  alignas(32) float part[16];
  Store(part, x);
  for (int i = 0; i < n; ++i) to[i] = part[i];
}
inline Vector MultiplyAdd(const Vector& a, const Vector& b, const Vector& c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline Vector MultiplySubtract(const Vector& a, const Vector& b, const Vector& c) {
  return {_mm256_fmsub_ps(a.low, b.low, c.low), _mm256_fmsub_ps(a.high, b.high, c.high)};
}
inline Vector Add(const Vector& a, const Vector& b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
inline Vector Clamp(const Vector& x) {
  const __m256 one = _mm256_set1_ps(1.f), minus_one = _mm256_set1_ps(-1.f);
  return {_mm256_min_ps(one, _mm256_max_ps(minus_one, x.low)), _mm256_min_ps(one, _mm256_max_ps(minus_one, x.high))};
}
inline uint16_t NotNegative(const Vector& x) {
  const __m256 zero = _mm256_setzero_ps();
  const int low = _mm256_movemask_ps(_mm256_cmp_ps(x.low, zero, _CMP_GE_OQ));
  const int high = _mm256_movemask_ps(_mm256_cmp_ps(x.high, zero, _CMP_GE_OQ));
  return static_cast<uint16_t>(low | high << 8);
}
inline uint16_t NotBelow(const int32_t* a, const int32_t* direction, const int32_t* b) {
  unsigned bits = 0;
  for (int half = 0; half < 16; half += 8) {
    const __m256i product = _mm256_mullo_epi32(LoadInts(a + half), LoadInts(direction + half));
    const int below = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(LoadInts(b + half), product)));
    bits |= static_cast<unsigned>(~below & 0xff) << half;
  }
  return static_cast<uint16_t>(bits);
}

inline Vector Broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }

inline __m256 FloatsOfShorts(const int16_t* x) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x))));
}
inline Vector FromShorts(const int16_t* x) { return {FloatsOfShorts(x), FloatsOfShorts(x + 8)}; }
inline Vector Subtract(const Vector& a, const Vector& b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
inline Vector Multiply(const Vector& a, const Vector& b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
inline __m256 Magnitude(__m256 x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.f), x); }
inline Vector Magnitude(const Vector& x) { return {Magnitude(x.low), Magnitude(x.high)}; }
inline uint16_t Inside(const Vector& z) {
  const __m256 one = _mm256_set1_ps(1.f);
  const int low = _mm256_movemask_ps(_mm256_cmp_ps(Magnitude(z.low), one, _CMP_LT_OQ));
  const int high = _mm256_movemask_ps(_mm256_cmp_ps(Magnitude(z.high), one, _CMP_LT_OQ));
  return static_cast<uint16_t>(low | high << 8);
}
inline Vector IfBits(uint16_t bits, const Vector& x) {
  const __m256i each = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i low = _mm256_and_si256(_mm256_set1_epi32(bits), each);
  const __m256i high = _mm256_and_si256(_mm256_set1_epi32(bits >> 8), each);
  return {_mm256_and_ps(x.low, _mm256_castsi256_ps(_mm256_cmpeq_epi32(low, each))),
          _mm256_and_ps(x.high, _mm256_castsi256_ps(_mm256_cmpeq_epi32(high, each)))};
}
inline __m256 SlopeOf(__m256 x) {
  const __m256 two = _mm256_set1_ps(2.f);
  return _mm256_max_ps(_mm256_setzero_ps(), _mm256_fnmadd_ps(two, Magnitude(x), two));
}
inline Vector Slope(const Vector& x) { return {SlopeOf(x.low), SlopeOf(x.high)}; }
inline bool AnyNan(const Vector& x) { return _mm256_movemask_ps(_mm256_cmp_ps(x.low, x.high, _CMP_UNORD_Q)) != 0; }
inline Vector FirstOnes(int n) {
  alignas(32) float part[16] = {};
  for (int i = 0; i < n; ++i) part[i] = 1.f;
  return Load(part);
}

constexpr int kTable = 8;
// A vector takes two registers. The sums of five rows take ten; with the index and a number they take 15 of the 16
// registers.
constexpr int kLookupRows = 5;
struct Index {
  __m256i low, high;
  __m256 low_signs, high_signs;  // the sign bit is 1 where a number is negated
};
inline Index IndexOf(const uint8_t* codes) {
  const __m256i low = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes)));
  const __m256i high = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + 8)));
  const __m256 sign = _mm256_set1_ps(-0.f);
  return {low, high, _mm256_and_ps(_mm256_castsi256_ps(low), sign), _mm256_and_ps(_mm256_castsi256_ps(high), sign)};
}
// The lookup only reads the lowest three bits of an index.
inline Vector AddLookup(const Vector& sum, const float* table, const Index& index) {
  const __m256 numbers = _mm256_loadu_ps(table);
  return {_mm256_add_ps(sum.low, _mm256_xor_ps(_mm256_permutevar8x32_ps(numbers, index.low), index.low_signs)),
          _mm256_add_ps(sum.high, _mm256_xor_ps(_mm256_permutevar8x32_ps(numbers, index.high), index.high_signs))};
}
inline void MakeTable(const float* a, const float* b, const float* c, const float* d, float* table) {
  const __m256 of_a = _mm256_xor_ps(_mm256_broadcast_ss(a), _mm256_setr_ps(-0.f, 0, -0.f, 0, -0.f, 0, -0.f, 0));
  const __m256 of_b = _mm256_xor_ps(_mm256_broadcast_ss(b), _mm256_setr_ps(-0.f, -0.f, 0, 0, -0.f, -0.f, 0, 0));
  const __m256 of_c = _mm256_xor_ps(_mm256_broadcast_ss(c), _mm256_setr_ps(-0.f, -0.f, -0.f, -0.f, 0, 0, 0, 0));
  _mm256_storeu_ps(table, _mm256_add_ps(_mm256_add_ps(_mm256_add_ps(_mm256_broadcast_ss(d), of_a), of_b), of_c));
}

#include "tile.h"
#include "lookup.h"
#include "unit_tile.h"
#include "weight_tile.h"

// One word adds at most 8 to a byte counter, so a byte can count 31 words. After 31 words the byte counters are summed
// into 64-bit counters.
constexpr int64_t kWordsPerByteCounter = 31;

// Each of P pixels has four registers, each with the byte counters of four output channels. With P = 2 the byte
// counters, the table and the mask take ten of the sixteen registers. The operands take the others.
template <int P>
inline void CountOf(const uint64_t* gathered, int64_t stride, const uint64_t* panel, int64_t depth,
                        int32_t all, int32_t* sums) {
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                         0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i low_half = _mm256_set1_epi8(0x0f);
  __m256i wide[P][4];
  for (int p = 0; p < P; ++p) {
    for (int j = 0; j < 4; ++j) wide[p][j] = _mm256_setzero_si256();
  }
  for (int64_t from = 0; from < depth; from += kWordsPerByteCounter) {
    const int64_t to = from + kWordsPerByteCounter < depth ? from + kWordsPerByteCounter : depth;
    __m256i bytes[P][4];
    for (int p = 0; p < P; ++p) {
      for (int j = 0; j < 4; ++j) bytes[p][j] = _mm256_setzero_si256();
    }
    for (int64_t d = from; d < to; ++d) {
      for (int p = 0; p < P; ++p) {
        const __m256i x = _mm256_set1_epi64x(static_cast<long long>(gathered[d * stride + p]));
        for (int j = 0; j < 4; ++j) {
          const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel + 16 * d + 4 * j));
          const __m256i differ = _mm256_xor_si256(x, w);
          const __m256i low = _mm256_and_si256(differ, low_half);
          const __m256i high = _mm256_and_si256(_mm256_srli_epi16(differ, 4), low_half);
          bytes[p][j] = _mm256_add_epi8(bytes[p][j], _mm256_shuffle_epi8(table, low));
          bytes[p][j] = _mm256_add_epi8(bytes[p][j], _mm256_shuffle_epi8(table, high));
        }
      }
    }
    for (int p = 0; p < P; ++p) {
      for (int j = 0; j < 4; ++j) {
        wide[p][j] = _mm256_add_epi64(wide[p][j], _mm256_sad_epu8(bytes[p][j], _mm256_setzero_si256()));
      }
    }
  }
  const __m256i even = _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6);
  for (int p = 0; p < P; ++p) {
    for (int j = 0; j < 4; ++j) {
      const __m256i narrow = _mm256_permutevar8x32_epi32(wide[p][j], even);
      const __m128i count = _mm256_castsi256_si128(narrow);
      const __m128i sum = _mm_sub_epi32(_mm_set1_epi32(all), _mm_add_epi32(count, count));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(sums + 16 * p + 4 * j), sum);
    }
  }
}

#include "count.h"

}  // namespace
}  // namespace recu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const recu::Isa* recu::Avx2Isa() {
  static const Isa isa = {"avx2", 8, Count, CorrectBorder, FinishAffine, FinishThresholds, PackRows, kTable,
                          MakeCodes, MakeTables, Lookup,
                          {HasNan, AddMoments, NormalizeRun, AddGradientSums, DifferentiateNorm, DifferentiateSigns},
                          {StandardizedSigns, DifferentiateStandardized}};
  static const bool have = FindX86Features().avx2;
  return have ? &isa : nullptr;
}

#else

const recu::Isa* recu::Avx2Isa() { return nullptr; }

#endif
