// Measures how many 64-bit words a second xor, popcount and add can process on this processor, with all operands in
// registers. No kernel of these operations can exceed this speed. Prints a line for each instruction set: its name and
// the words a second. inference.py builds and runs it.

#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

namespace {

constexpr long kRounds = 1000000;
constexpr int kRepeats = 20;  // of which the fastest counts
constexpr int kAccumulators = 16;

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

__attribute__((target("avx512f,avx512vpopcntdq"))) double Avx512() {
  __m512i sums[kAccumulators], x = _mm512_set1_epi64(0x123456789abcdef), y = _mm512_set1_epi64(0x55);
  for (__m512i& s : sums) s = _mm512_setzero_si512();
  const double began = Seconds();
  for (long i = 0; i < kRounds; ++i) {
#pragma GCC unroll 16
    for (int a = 0; a < kAccumulators; ++a) {
      // Hides the values from the compiler, so that it keeps every xor.
      __asm__ volatile("" : "+v"(x), "+v"(y));
      sums[a] = _mm512_add_epi64(sums[a], _mm512_popcnt_epi64(_mm512_xor_si512(x, y)));
    }
  }
  const double seconds = Seconds() - began;
  for (__m512i& s : sums) __asm__ volatile("" ::"v"(s));
  return 8.0 * kAccumulators * kRounds / seconds;
}

__attribute__((target("avx2"))) double Avx2() {
  constexpr int kCounters = 8;
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                         0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i low_half = _mm256_set1_epi8(0x0f);
  __m256i bytes[kCounters], x = _mm256_set1_epi64x(0x123456789abcdef), y = _mm256_set1_epi64x(0x55);
  for (__m256i& b : bytes) b = _mm256_setzero_si256();
  const double began = Seconds();
  for (long i = 0; i < kRounds; ++i) {
#pragma GCC unroll 8
    for (int a = 0; a < kCounters; ++a) {
      __asm__ volatile("" : "+v"(x), "+v"(y));
      const __m256i differ = _mm256_xor_si256(x, y);
      const __m256i low = _mm256_and_si256(differ, low_half);
      const __m256i high = _mm256_and_si256(_mm256_srli_epi16(differ, 4), low_half);
      bytes[a] = _mm256_add_epi8(bytes[a], _mm256_shuffle_epi8(table, low));
      bytes[a] = _mm256_add_epi8(bytes[a], _mm256_shuffle_epi8(table, high));
    }
  }
  const double seconds = Seconds() - began;
  for (__m256i& b : bytes) __asm__ volatile("" ::"v"(b));
  return 4.0 * kCounters * kRounds / seconds;
}

}  // namespace

int main() {
  double avx512 = 0, avx2 = 0;
  for (int i = 0; i < kRepeats; ++i) {
    if (__builtin_cpu_supports("avx512vpopcntdq")) avx512 = std::max(avx512, Avx512());
    if (__builtin_cpu_supports("avx2")) avx2 = std::max(avx2, Avx2());
  }
  if (avx512 > 0) std::printf("avx512 %.0f\n", avx512);
  if (avx2 > 0) std::printf("avx2 %.0f\n", avx2);
}
