// Implements the inner loops with AVX-512 and VPOPCNTDQ, which counts the bits of eight 64-bit words per instruction.

#include "isa.h"
#include "x86_features.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#include <cmath>
#include <cstring>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq,prefer-vector-width=512")
#endif

namespace recu {
namespace {

using Vector = __m512;

inline Vector Load(const float* x) { return _mm512_loadu_ps(x); }
inline __mmask16 First(int n) { return static_cast<__mmask16>((1u << n) - 1); }
inline Vector LoadPart(const float* x, int n) { return _mm512_maskz_loadu_ps(First(n), x); }
inline Vector FromInts(const int32_t* x) { return _mm512_maskz_cvtepi32_ps(0xffff, _mm512_loadu_si512(x)); }
inline void SubtractInts(int32_t* from, const int32_t* x) {
  _mm512_storeu_si512(from, _mm512_sub_epi32(_mm512_loadu_si512(from), _mm512_loadu_si512(x)));
}
inline void Store(float* to, Vector x) { _mm512_storeu_ps(to, x); }
inline void StorePart(float* to, Vector x, int n) { _mm512_mask_storeu_ps(to, First(n), x); }
inline Vector MultiplyAdd(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
inline Vector MultiplySubtract(Vector a, Vector b, Vector c) { return _mm512_fmsub_ps(a, b, c); }
inline Vector Add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
inline Vector Clamp(Vector x) {
  return _mm512_maskz_min_ps(0xffff, _mm512_set1_ps(1.f), _mm512_maskz_max_ps(0xffff, _mm512_set1_ps(-1.f), x));
}
inline uint16_t NotNegative(Vector x) { return _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GE_OQ); }
inline uint16_t NotBelow(const int32_t* a, const int32_t* direction, const int32_t* b) {
  const __m512i product = _mm512_mullo_epi32(_mm512_loadu_si512(a), _mm512_loadu_si512(direction));
  return _mm512_cmpge_epi32_mask(product, _mm512_loadu_si512(b));
}

inline Vector Broadcast(float x) { return _mm512_set1_ps(x); }

inline Vector FromShorts(const int16_t* x) {
  const __m256i shorts = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
  return _mm512_maskz_cvtepi32_ps(0xffff, _mm512_maskz_cvtepi16_epi32(0xffff, shorts));
}
inline Vector Subtract(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
inline Vector Multiply(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
inline Vector Magnitude(Vector x) { return _mm512_maskz_andnot_ps(0xffff, _mm512_set1_ps(-0.f), x); }
inline uint16_t Inside(Vector z) { return _mm512_cmp_ps_mask(Magnitude(z), _mm512_set1_ps(1.f), _CMP_LT_OQ); }
inline Vector IfBits(uint16_t bits, Vector x) { return _mm512_maskz_mov_ps(bits, x); }
inline Vector Slope(Vector x) {
  const Vector two = _mm512_set1_ps(2.f);
  return _mm512_maskz_max_ps(0xffff, _mm512_setzero_ps(), _mm512_fnmadd_ps(two, Magnitude(x), two));
}
inline bool AnyNan(Vector x) { return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q) != 0; }
inline Vector FirstOnes(int n) { return _mm512_maskz_mov_ps(First(n), _mm512_set1_ps(1.f)); }

constexpr int kTable = 16;
constexpr int kLookupRows = 16;
using Index = __m512i;
inline Index IndexOf(const uint8_t* codes) {
  return _mm512_maskz_cvtepu8_epi32(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
}
// The lookup only reads the lowest four bits of an index.
inline Vector AddLookup(Vector sum, const float* table, Index index) {
  return _mm512_add_ps(sum, _mm512_maskz_permutexvar_ps(0xffff, index, _mm512_loadu_ps(table)));
}
// 1 where the bit of a lane is 1, and -1 elsewhere.
inline Vector Signs(__mmask16 bits) { return _mm512_mask_blend_ps(bits, _mm512_set1_ps(-1.f), _mm512_set1_ps(1.f)); }
// Products with 1 and -1 are exact. Multiply-adds read the numbers straight from memory.
inline void MakeTable(const float* a, const float* b, const float* c, const float* d, float* table) {
  Vector sum = Multiply(Broadcast(*d), Signs(0x00ff));
  sum = MultiplyAdd(Broadcast(*a), Signs(0x55aa), sum);
  sum = MultiplyAdd(Broadcast(*b), Signs(0x33cc), sum);
  Store(table, MultiplyAdd(Broadcast(*c), Signs(0x0ff0), sum));
}

#include "tile.h"
#include "lookup.h"
#include "unit_tile.h"
#include "weight_tile.h"

constexpr int kMaxPixels = 12;

inline void StoreSums(int32_t* to, int32_t all, __m512i count) {
  // The mask selects all lanes, here and in the functions above. Without a mask GCC 12 warns about its own header.
  const __m256i narrow = _mm512_maskz_cvtepi64_epi32(0xff, count);
  const __m256i sum = _mm256_sub_epi32(_mm256_set1_epi32(all), _mm256_add_epi32(narrow, narrow));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), sum);
}

// Each of P pixels has two registers, each with the counters of eight output channels. With P = 12 the counters take 24
// of the 32 registers.
template <int P>
void CountOf(const uint64_t* gathered, int64_t stride, const uint64_t* panel, int64_t depth, int32_t all,
             int32_t* sums) {
  __m512i first[P], second[P];
  for (int p = 0; p < P; ++p) first[p] = second[p] = _mm512_setzero_si512();
  for (int64_t d = 0; d < depth; ++d, gathered += stride, panel += 16) {
    const __m512i w0 = _mm512_loadu_si512(panel), w1 = _mm512_loadu_si512(panel + 8);
#pragma GCC unroll 12
    for (int p = 0; p < P; ++p) {
      const __m512i x = _mm512_set1_epi64(static_cast<long long>(gathered[p]));
      first[p] = _mm512_add_epi64(first[p], _mm512_popcnt_epi64(_mm512_xor_si512(x, w0)));
      second[p] = _mm512_add_epi64(second[p], _mm512_popcnt_epi64(_mm512_xor_si512(x, w1)));
    }
  }
#pragma GCC unroll 12
  for (int p = 0; p < P; ++p) {
    StoreSums(sums + 16 * p, all, first[p]);
    StoreSums(sums + 16 * p + 8, all, second[p]);
  }
}

using CountFn = void (*)(const uint64_t*, int64_t, const uint64_t*, int64_t, int32_t, int32_t*);
constexpr CountFn kCount[kMaxPixels + 1] = {
    nullptr,        CountOf<1>, CountOf<2>, CountOf<3>,  CountOf<4>,  CountOf<5>, CountOf<6>,
    CountOf<7>, CountOf<8>, CountOf<9>, CountOf<10>, CountOf<11>, CountOf<12>};

void Count(const uint64_t* gathered, int64_t stride, const uint64_t* panel, int64_t depth, int pixels, int32_t all,
           int32_t* sums) {
  kCount[pixels](gathered, stride, panel, depth, all, sums);
}

}  // namespace
}  // namespace recu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const recu::Isa* recu::Avx512Isa() {
  static const Isa isa = {"avx512", kMaxPixels, Count, CorrectBorder, FinishAffine, FinishThresholds, PackRows, kTable,
                          MakeCodes, MakeTables, Lookup,
                          {HasNan, AddMoments, NormalizeRun, AddGradientSums, DifferentiateNorm, DifferentiateSigns},
                          {StandardizedSigns, DifferentiateStandardized}};
  static const bool have = FindX86Features().avx512;
  return have ? &isa : nullptr;
}

#else

const recu::Isa* recu::Avx512Isa() { return nullptr; }

#endif
