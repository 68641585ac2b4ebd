/* Counts the bits in which the signs of an input differ from each of eight kernels.

   The compiler's target chooses one of four versions: AVX2, NEON, the DSP instructions of Cortex-M, or plain C99.
   All versions give the same counts. Define RECU_PORTABLE to get plain C99 on every target. */
#ifndef RECU_BITS_H
#define RECU_BITS_H

#include <limits.h>
#include <stdint.h>

#if INT_MAX < 2147483647
#error "these networks need an int of 32 bits"
#endif

/* Kernels lie in blocks of eight: eight words, one of each kernel, for each word of the input. */
enum { RECU_LANES = 8 };

/* Bits are first counted in bytes. A byte holds at most 255, and each word adds at most 8 to it. */
enum { RECU_WORDS_BEFORE_OVERFLOW = 31 };

#if defined(__AVX2__) && !defined(RECU_PORTABLE)
#define RECU_KERNELS "AVX2"
#include <immintrin.h>

static inline __m256i recu_byte_counts(__m256i x) {
  const __m256i counts = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2,
                                          2, 3, 2, 3, 3, 4);
  const __m256i low = _mm256_set1_epi8(15);
  return _mm256_add_epi8(_mm256_shuffle_epi8(counts, _mm256_and_si256(x, low)),
                         _mm256_shuffle_epi8(counts, _mm256_and_si256(_mm256_srli_epi16(x, 4), low)));
}

/* Adds to counts[i] the number of bits in which `words` words of the signs and of kernel i differ. */
static inline void recu_count_differences(const uint32_t *signs, const uint32_t *kernels, int words, uint32_t *counts) {
  __m256i total = _mm256_loadu_si256((const __m256i *)counts);
  while (words > 0) {
    const int some = words < RECU_WORDS_BEFORE_OVERFLOW ? words : RECU_WORDS_BEFORE_OVERFLOW;
    __m256i bytes = _mm256_setzero_si256();
    for (int i = 0; i < some; i++) {
      const __m256i sign = _mm256_set1_epi32((int)signs[i]);
      const __m256i kernel = _mm256_loadu_si256((const __m256i *)(kernels + RECU_LANES * i));
      bytes = _mm256_add_epi8(bytes, recu_byte_counts(_mm256_xor_si256(sign, kernel)));
    }
    const __m256i pairs = _mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1));
    total = _mm256_add_epi32(total, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    signs += some;
    kernels += RECU_LANES * some;
    words -= some;
  }
  _mm256_storeu_si256((__m256i *)counts, total);
}

#elif defined(__ARM_NEON) && !defined(RECU_PORTABLE)
#define RECU_KERNELS "NEON"
#include <arm_neon.h>

static inline uint8x16_t recu_byte_counts(uint32x4_t signs, const uint32_t *kernels) {
  return vcntq_u8(vreinterpretq_u8_u32(veorq_u32(signs, vld1q_u32(kernels))));
}

static inline void recu_add_bytes(uint32_t *counts, uint8x16_t bytes) {
  vst1q_u32(counts, vpadalq_u16(vld1q_u32(counts), vpaddlq_u8(bytes)));
}

/* Adds to counts[i] the number of bits in which `words` words of the signs and of kernel i differ. */
static inline void recu_count_differences(const uint32_t *signs, const uint32_t *kernels, int words, uint32_t *counts) {
  while (words > 0) {
    const int some = words < RECU_WORDS_BEFORE_OVERFLOW ? words : RECU_WORDS_BEFORE_OVERFLOW;
    uint8x16_t low = vdupq_n_u8(0), high = vdupq_n_u8(0);
    for (int i = 0; i < some; i++) {
      const uint32x4_t sign = vdupq_n_u32(signs[i]);
      low = vaddq_u8(low, recu_byte_counts(sign, kernels + RECU_LANES * i));
      high = vaddq_u8(high, recu_byte_counts(sign, kernels + RECU_LANES * i + 4));
    }
    recu_add_bytes(counts, low);
    recu_add_bytes(counts + 4, high);
    signs += some;
    kernels += RECU_LANES * some;
    words -= some;
  }
}

#else

/* Returns a word in which each byte is the number of 1 bits in the same byte of `word`. */
static inline uint32_t recu_byte_counts(uint32_t word) {
  word -= (word >> 1) & 0x55555555u;
  word = (word & 0x33333333u) + ((word >> 2) & 0x33333333u);
  return (word + (word >> 4)) & 0x0f0f0f0fu;
}

#if defined(__ARM_FEATURE_DSP) && !defined(RECU_PORTABLE)
#define RECU_KERNELS "Cortex-M DSP"
#include <arm_acle.h>

/* USADA8 adds the four bytes of a word to a sum in one instruction. */
static inline uint32_t recu_add_bytes(uint32_t sum, uint32_t bytes) { return __usada8(bytes, 0, sum); }
#else
#define RECU_KERNELS "C99"

static inline uint32_t recu_add_bytes(uint32_t sum, uint32_t bytes) {
  bytes = (bytes & 0x00ff00ffu) + ((bytes >> 8) & 0x00ff00ffu);
  return sum + (bytes & 0xffffu) + (bytes >> 16);
}
#endif

/* Adds to counts[i] the number of bits in which `words` words of the signs and of kernel i differ. */
static inline void recu_count_differences(const uint32_t *signs, const uint32_t *kernels, int words, uint32_t *counts) {
  while (words > 0) {
    const int some = words < RECU_WORDS_BEFORE_OVERFLOW ? words : RECU_WORDS_BEFORE_OVERFLOW;
    for (int lane = 0; lane < RECU_LANES; lane++) {
      uint32_t bytes = 0;
      for (int i = 0; i < some; i++) bytes += recu_byte_counts(signs[i] ^ kernels[RECU_LANES * i + lane]);
      counts[lane] = recu_add_bytes(counts[lane], bytes);
    }
    signs += some;
    kernels += RECU_LANES * some;
    words -= some;
  }
}
#endif

#endif
