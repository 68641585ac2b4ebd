// Implements the inner loops with NEON, which all 64-bit Arm processors have: neither the compiler nor the program has
// to look for it.

#include "isa.h"

#if defined(__aarch64__)

#include <arm_neon.h>

#include <cmath>
#include <cstring>

namespace recu {
namespace {

struct Vector {
  float32x4_t v[4];
};

// Returns the vector with the four registers each(0) to each(3).
template <typename Each>
inline Vector Make(const Each& each) {
  return {{each(0), each(1), each(2), each(3)}};
}

inline Vector Load(const float* x) {
  return Make([=](int i) { return vld1q_f32(x + 4 * i); });
}
inline Vector LoadPart(const float* x, int n) {
  float part[16] = {};
  for (int i = 0; i < n; ++i) part[i] = x[i];
  return Load(part);
}
inline Vector FromInts(const int32_t* x) {
  return Make([=](int i) { return vcvtq_f32_s32(vld1q_s32(x + 4 * i)); });
}
inline void SubtractInts(int32_t* from, const int32_t* x) {
  for (int i = 0; i < 16; i += 4) vst1q_s32(from + i, vsubq_s32(vld1q_s32(from + i), vld1q_s32(x + i)));
}
inline void Store(float* to, const Vector& x) {
  for (int i = 0; i < 4; ++i) vst1q_f32(to + 4 * i, x.v[i]);
}
inline void StorePart(float* to, const Vector& x, int n) {
  float part[16];
  Store(part, x);
  for (int i = 0; i < n; ++i) to[i] = part[i];
}
inline Vector MultiplyAdd(const Vector& a, const Vector& b, const Vector& c) {
  return Make([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); });
}
inline Vector MultiplySubtract(const Vector& a, const Vector& b, const Vector& c) {
  return Make([&](int i) { return vfmaq_f32(vnegq_f32(c.v[i]), a.v[i], b.v[i]); });
}
inline Vector Add(const Vector& a, const Vector& b) {
  return Make([&](int i) { return vaddq_f32(a.v[i], b.v[i]); });
}
// A NaN stays NaN: these minima and maxima are NaN if one of the two numbers is NaN.
inline Vector Clamp(const Vector& x) {
  return Make([&](int i) { return vminq_f32(vdupq_n_f32(1.f), vmaxq_f32(vdupq_n_f32(-1.f), x.v[i])); });
}

// Returns one bit per lane. Bit i is 1 if lane i holds ones. The lanes are numbered through all four masks.
inline uint16_t BitsOf(const uint32x4_t (&masks)[4]) {
  const uint16x8_t low = vcombine_u16(vmovn_u32(masks[0]), vmovn_u32(masks[1]));
  const uint16x8_t high = vcombine_u16(vmovn_u32(masks[2]), vmovn_u32(masks[3]));
  constexpr uint8_t kBits[] = {1, 2, 4, 8, 16, 32, 64, 128};
  const uint8x8_t bits = vld1_u8(kBits);
  const int low_bits = vaddv_u8(vand_u8(vmovn_u16(low), bits)), high_bits = vaddv_u8(vand_u8(vmovn_u16(high), bits));
  return static_cast<uint16_t>(low_bits | high_bits << 8);
}
inline uint16_t NotNegative(const Vector& x) {
  uint32x4_t masks[4];
  for (int i = 0; i < 4; ++i) masks[i] = vcgezq_f32(x.v[i]);
  return BitsOf(masks);
}
inline uint16_t NotBelow(const int32_t* a, const int32_t* direction, const int32_t* b) {
  uint32x4_t masks[4];
  for (int i = 0; i < 4; ++i) {
    masks[i] = vcgeq_s32(vmulq_s32(vld1q_s32(a + 4 * i), vld1q_s32(direction + 4 * i)), vld1q_s32(b + 4 * i));
  }
  return BitsOf(masks);
}

inline Vector Broadcast(float x) {
  return Make([=](int) { return vdupq_n_f32(x); });
}
inline Vector FromShorts(const int16_t* x) {
  return Make([=](int i) { return vcvtq_f32_s32(vmovl_s16(vld1_s16(x + 4 * i))); });
}
inline Vector Subtract(const Vector& a, const Vector& b) {
  return Make([&](int i) { return vsubq_f32(a.v[i], b.v[i]); });
}
inline Vector Multiply(const Vector& a, const Vector& b) {
  return Make([&](int i) { return vmulq_f32(a.v[i], b.v[i]); });
}
inline Vector Magnitude(const Vector& x) {
  return Make([&](int i) { return vabsq_f32(x.v[i]); });
}
inline uint16_t Inside(const Vector& z) {
  uint32x4_t masks[4];
  for (int i = 0; i < 4; ++i) masks[i] = vcaltq_f32(z.v[i], vdupq_n_f32(1.f));
  return BitsOf(masks);
}
inline Vector IfBits(uint16_t bits, const Vector& x) {
  constexpr uint32_t kBits[] = {1, 2, 4, 8};
  return Make([&](int i) {
    const uint32x4_t ones = vtstq_u32(vdupq_n_u32(bits >> 4 * i), vld1q_u32(kBits));
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(x.v[i]), ones));
  });
}
inline Vector Slope(const Vector& x) {
  const float32x4_t two = vdupq_n_f32(2.f);
  return Make([&](int i) { return vmaxnmq_f32(vdupq_n_f32(0.f), vfmsq_f32(two, two, vabsq_f32(x.v[i]))); });
}
inline bool AnyNan(const Vector& x) {
  uint32x4_t equal = vceqq_f32(x.v[0], x.v[0]);
  for (int i = 1; i < 4; ++i) equal = vandq_u32(equal, vceqq_f32(x.v[i], x.v[i]));
  return vminvq_u32(equal) == 0;
}
inline Vector FirstOnes(int n) {
  float part[16] = {};
  for (int i = 0; i < n; ++i) part[i] = 1.f;
  return Load(part);
}

constexpr int kTable = 8;
// A vector takes four registers. The sums of four rows take 16, an index takes eight, and a table two of the 32
// registers.
constexpr int kLookupRows = 4;
struct Index {
  uint8x16_t bytes[4];  // for each byte of four numbers, its place in a table
  uint32x4_t signs[4];  // the sign bit is 1 where a number is negated
};
inline Index IndexOf(const uint8_t* codes) {
  const uint8x16_t all = vld1q_u8(codes), first = vandq_u8(all, vdupq_n_u8(7));
  const uint8x16_t within = vreinterpretq_u8_u32(vdupq_n_u32(0x03020100));
  constexpr uint8_t kSpread[] = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
  Index index;
  for (int i = 0; i < 4; ++i) {
    const uint8x16_t lanes = vaddq_u8(vld1q_u8(kSpread), vdupq_n_u8(static_cast<uint8_t>(4 * i)));
    index.bytes[i] = vaddq_u8(vshlq_n_u8(vqtbl1q_u8(first, lanes), 2), within);
    const uint32x4_t spread = vreinterpretq_u32_u8(vqtbl1q_u8(all, lanes));
    index.signs[i] = vandq_u32(spread, vdupq_n_u32(0x80000000));
  }
  return index;
}
inline Vector AddLookup(const Vector& sum, const float* table, const Index& index) {
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(table);
  const uint8x16x2_t numbers = {{vld1q_u8(bytes), vld1q_u8(bytes + 16)}};
  return Make([&](int i) {
    const uint32x4_t found = vreinterpretq_u32_u8(vqtbl2q_u8(numbers, index.bytes[i]));
    return vaddq_f32(sum.v[i], vreinterpretq_f32_u32(veorq_u32(found, index.signs[i])));
  });
}
inline void MakeTable(const float* a, const float* b, const float* c, const float* d, float* table) {
  for (int i = 0; i < 8; ++i) table[i] = ((*d + (i & 1 ? *a : -*a)) + (i & 2 ? *b : -*b)) + (i & 4 ? *c : -*c);
}

#include "tile.h"
#include "lookup.h"
#include "unit_tile.h"
#include "weight_tile.h"

// One word adds at most 8 to a byte counter, so a byte can count 31 words. After 31 words the byte counters are summed.
constexpr int64_t kWordsPerByteCounter = 31;

// Each of P pixels has eight registers, each with the byte counters of two output channels. With P = 2 the counters
// take 16 of the 32 registers.
template <int P>
inline void CountOf(const uint64_t* gathered, int64_t stride, const uint64_t* panel, int64_t depth, int32_t all,
                    int32_t* sums) {
  for (int i = 0; i < 16 * P; i += 4) vst1q_s32(sums + i, vdupq_n_s32(all));
  for (int64_t from = 0; from < depth; from += kWordsPerByteCounter) {
    const int64_t to = from + kWordsPerByteCounter < depth ? from + kWordsPerByteCounter : depth;
    uint8x16_t bytes[P][8];
    for (int p = 0; p < P; ++p) {
      for (int j = 0; j < 8; ++j) bytes[p][j] = vdupq_n_u8(0);
    }
    for (int64_t d = from; d < to; ++d) {
      uint64x2_t x[P];
      for (int p = 0; p < P; ++p) x[p] = vdupq_n_u64(gathered[d * stride + p]);
#pragma GCC unroll 8
      for (int j = 0; j < 8; ++j) {
        const uint64x2_t w = vld1q_u64(panel + 16 * d + 2 * j);
        for (int p = 0; p < P; ++p) {
          bytes[p][j] = vaddq_u8(bytes[p][j], vcntq_u8(vreinterpretq_u8_u64(veorq_u64(x[p], w))));
        }
      }
    }
    for (int p = 0; p < P; ++p) {
      for (int j = 0; j < 8; j += 2) {
        // The four 16-bit numbers of each channel are added to two, and these to one 32-bit number.
        const uint16x8_t pairs = vpaddq_u16(vpaddlq_u8(bytes[p][j]), vpaddlq_u8(bytes[p][j + 1]));
        const int32x4_t count = vreinterpretq_s32_u32(vpaddlq_u16(pairs));
        int32_t* to_sums = sums + 16 * p + 2 * j;
        vst1q_s32(to_sums, vsubq_s32(vld1q_s32(to_sums), vaddq_s32(count, count)));
      }
    }
  }
}

#include "count.h"

}  // namespace
}  // namespace recu

const recu::Isa* recu::NeonIsa() {
  static const Isa isa = {"neon", 8, Count, CorrectBorder, FinishAffine, FinishThresholds, PackRows, kTable,
                          MakeCodes, MakeTables, Lookup,
                          {HasNan, AddMoments, NormalizeRun, AddGradientSums, DifferentiateNorm, DifferentiateSigns},
                          {StandardizedSigns, DifferentiateStandardized}};
  return &isa;
}

#else

const recu::Isa* recu::NeonIsa() { return nullptr; }

#endif
