/* Operations after a convolution or pooling. Each function works on the channels of one pixel, in `row` or `sums`.

   fmaf stands where the trained model's compiled program rounds once. A different last bit could flip a sign. */
#ifndef RECU_ROWS_H
#define RECU_ROWS_H

#include <math.h>
#include <stdint.h>

/* affine: (4, channels): alpha, mean, factor, bias. */
static inline void recu_affine(float *row, const int32_t *sums, const float *affine, int channels) {
  const float *alpha = affine, *mean = alpha + channels, *factor = mean + channels, *bias = factor + channels;
  for (int c = 0; c < channels; c++) row[c] = fmaf(fmaf((float)sums[c], alpha[c], -mean[c]), factor[c], bias[c]);
}

static inline void recu_scale(float *row, const int32_t *sums, const float *alpha, int channels) {
  for (int c = 0; c < channels; c++) row[c] = (float)sums[c] * alpha[c];
}

/* norm: (3, channels): mean, factor, bias. */
static inline void recu_batch_norm(float *row, const float *norm, int channels) {
  const float *mean = norm, *factor = mean + channels, *bias = factor + channels;
  for (int c = 0; c < channels; c++) row[c] = fmaf(row[c] - mean[c], factor[c], bias[c]);
}

static inline void recu_hard_tanh(float *row, int channels) {
  for (int c = 0; c < channels; c++) row[c] = row[c] > 1.0f ? 1.0f : row[c] < -1.0f ? -1.0f : row[c];
}

static inline void recu_relu(float *row, int channels) {
  for (int c = 0; c < channels; c++) row[c] = row[c] > 0.0f ? row[c] : 0.0f;
}

static inline void recu_prelu(float *row, const float *slope, int channels) {
  for (int c = 0; c < channels; c++) row[c] = row[c] > 0.0f ? row[c] : slope[c] * row[c];
}

static inline void recu_add(float *row, const float *other, int channels) {
  for (int c = 0; c < channels; c++) row[c] += other[c];
}

static inline void recu_copy(float *to, const float *from, int channels) {
  for (int c = 0; c < channels; c++) to[c] = from[c];
}

/* Adds channels of zeros before and after the channels of `row`. */
static inline void recu_pad_channels(float *row, int before, int channels, int after) {
  for (int c = channels - 1; c >= 0; c--) row[before + c] = row[c];
  for (int c = 0; c < before; c++) row[c] = 0.0f;
  for (int c = 0; c < after; c++) row[before + channels + c] = 0.0f;
}

/* The sign of 0 is +1. */
static inline void recu_sign(uint32_t *out, const float *row, int channels) {
  for (int first = 0; first < channels; first += 32) {
    uint32_t word = 0;
    for (int c = first; c < channels && c < first + 32; c++) word |= (uint32_t)(row[c] >= 0.0f) << (c - first);
    *out++ = word;
  }
}

static inline void recu_sign_of_shifted(uint32_t *out, const float *row, const float *bias, int channels) {
  for (int first = 0; first < channels; first += 32) {
    uint32_t word = 0;
    for (int c = first; c < channels && c < first + 32; c++)
      word |= (uint32_t)(row[c] + bias[c] >= 0.0f) << (c - first);
    *out++ = word;
  }
}

/* threshold: (2, channels): threshold, and direction, 1 or -1. */
static inline void recu_threshold(uint32_t *out, const int32_t *sums, const int32_t *threshold, int channels) {
  const int32_t *direction = threshold + channels;
  for (int first = 0; first < channels; first += 32) {
    uint32_t word = 0;
    for (int c = first; c < channels && c < first + 32; c++)
      word |= (uint32_t)(direction[c] * sums[c] >= threshold[c]) << (c - first);
    *out++ = word;
  }
}

#endif
