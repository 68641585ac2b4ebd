// Implements the inner loops in plain C++, for processors and compilers without AVX-512, AVX2 and NEON.

#include <cmath>
#include <cstring>

#include "isa.h"

namespace recu {
namespace {

struct Vector {
  float v[16];
};

template <typename Each>
inline Vector Make(const Each& each) {
  Vector result;
  for (int i = 0; i < 16; ++i) result.v[i] = each(i);
  return result;
}

inline Vector Load(const float* x) {
  return Make([=](int i) { return x[i]; });
}
inline Vector LoadPart(const float* x, int n) {
  return Make([=](int i) { return i < n ? x[i] : 0.f; });
}
inline Vector FromInts(const int32_t* x) {
  return Make([=](int i) { return static_cast<float>(x[i]); });
}
inline void SubtractInts(int32_t* from, const int32_t* x) {
  for (int i = 0; i < 16; ++i) from[i] -= x[i];
}
inline void StorePart(float* to, const Vector& x, int n) { std::memcpy(to, x.v, sizeof(float) * n); }
inline void Store(float* to, const Vector& x) { StorePart(to, x, 16); }
inline Vector MultiplyAdd(const Vector& a, const Vector& b, const Vector& c) {
  return Make([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); });
}
inline Vector MultiplySubtract(const Vector& a, const Vector& b, const Vector& c) {
  return Make([&](int i) { return std::fma(a.v[i], b.v[i], -c.v[i]); });
}
inline Vector Add(const Vector& a, const Vector& b) {
  return Make([&](int i) { return a.v[i] + b.v[i]; });
}
inline Vector Clamp(const Vector& x) {
  return Make([&](int i) { return x.v[i] < -1.f ? -1.f : x.v[i] > 1.f ? 1.f : x.v[i]; });
}
inline uint16_t NotNegative(const Vector& x) {
  unsigned bits = 0;
  for (int i = 0; i < 16; ++i) bits |= static_cast<unsigned>(x.v[i] >= 0) << i;
  return static_cast<uint16_t>(bits);
}
inline uint16_t NotBelow(const int32_t* a, const int32_t* direction, const int32_t* b) {
  unsigned bits = 0;
  for (int i = 0; i < 16; ++i) bits |= static_cast<unsigned>(a[i] * direction[i] >= b[i]) << i;
  return static_cast<uint16_t>(bits);
}

inline Vector Broadcast(float x) {
  return Make([=](int) { return x; });
}
inline Vector FromShorts(const int16_t* x) {
  return Make([=](int i) { return static_cast<float>(x[i]); });
}
inline Vector Subtract(const Vector& a, const Vector& b) {
  return Make([&](int i) { return a.v[i] - b.v[i]; });
}
inline Vector Multiply(const Vector& a, const Vector& b) {
  return Make([&](int i) { return a.v[i] * b.v[i]; });
}
inline Vector Magnitude(const Vector& x) {
  return Make([&](int i) { return std::fabs(x.v[i]); });
}
inline uint16_t Inside(const Vector& z) {
  unsigned bits = 0;
  for (int i = 0; i < 16; ++i) bits |= static_cast<unsigned>(std::fabs(z.v[i]) < 1.f) << i;
  return static_cast<uint16_t>(bits);
}
inline Vector IfBits(uint16_t bits, const Vector& x) {
  return Make([&](int i) { return bits >> i & 1 ? x.v[i] : 0.f; });
}
inline Vector Slope(const Vector& x) {
  return Make([&](int i) { return std::fmax(0.f, 2.f - 2.f * std::fabs(x.v[i])); });
}
inline bool AnyNan(const Vector& x) {
  bool found = false;
  for (float number : x.v) found |= number != number;
  return found;
}
inline Vector FirstOnes(int n) {
  return Make([=](int i) { return i < n ? 1.f : 0.f; });
}

constexpr int kTable = 16;
constexpr int kLookupRows = 4;
using Index = const uint8_t*;
inline Index IndexOf(const uint8_t* codes) { return codes; }
inline Vector AddLookup(const Vector& sum, const float* table, Index index) {
  return Make([=](int i) { return sum.v[i] + table[index[i] & 15]; });
}
inline void MakeTable(const float* a, const float* b, const float* c, const float* d, float* table) {
  for (int i = 0; i < 8; ++i) {
    table[i] = ((*d + (i & 1 ? *a : -*a)) + (i & 2 ? *b : -*b)) + (i & 4 ? *c : -*c);
    table[8 + i] = -table[i];
  }
}

#include "tile.h"
#include "lookup.h"
#include "unit_tile.h"
#include "weight_tile.h"

void Count(const uint64_t* gathered, int64_t stride, const uint64_t* panel, int64_t depth, int pixels, int32_t all,
           int32_t* sums) {
  for (int i = 0; i < 16 * pixels; ++i) sums[i] = all;
  for (int64_t d = 0; d < depth; ++d) {
    for (int p = 0; p < pixels; ++p) {
      for (int i = 0; i < 16; ++i) {
        sums[16 * p + i] -= 2 * __builtin_popcountll(gathered[d * stride + p] ^ panel[16 * d + i]);
      }
    }
  }
}

}  // namespace

const Isa& PortableIsa() {
  static const Isa isa = {"portable", 4, Count, CorrectBorder, FinishAffine, FinishThresholds, PackRows, kTable,
                          MakeCodes, MakeTables, Lookup,
                          {HasNan, AddMoments, NormalizeRun, AddGradientSums, DifferentiateNorm, DifferentiateSigns},
                          {StandardizedSigns, DifferentiateStandardized}};
  return isa;
}

const Isa* FindIsa(const char* name) {
  const Isa* all[] = {Avx512Isa(), Avx2Isa(), NeonIsa(), &PortableIsa()};
  for (const Isa* isa : all) {
    if (isa != nullptr && (*name == '\0' || std::strcmp(name, isa->name) == 0)) return isa;
  }
  return nullptr;
}

}  // namespace recu
