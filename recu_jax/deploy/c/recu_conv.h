/* Convolutions and poolings. Each function computes all channels of one output pixel.

   Images are rows, then columns, then channels. Signs are bits: 1 for +1, 0 for -1. Channel c of a pixel is bit c % 32
   of its word c / 32, and the bits after the last channel are 0. */
#ifndef RECU_CONV_H
#define RECU_CONV_H

#include <math.h>
#include <stdint.h>

#include "recu_bits.h"

/* A test may define RECU_WATCH, to see the integer sums of every binary convolution. */
#ifndef RECU_WATCH
#define RECU_WATCH(operation, pixel, sums, features) ((void)0)
#endif

typedef struct {
  int in_height, in_width, height, width, stride_y, stride_x, pad_top, pad_left, out_width;
} recu_window;

/* Where the window of an output pixel begins, and which rows and columns of the window lie within the input. */
typedef struct {
  int top, left, row, end_row, column, end_column;
} recu_place;

static inline recu_place recu_place_of(const recu_window *w, int pixel) {
  recu_place at;
  at.top = pixel / w->out_width * w->stride_y - w->pad_top;
  at.left = pixel % w->out_width * w->stride_x - w->pad_left;
  at.row = at.top < 0 ? -at.top : 0;
  at.column = at.left < 0 ? -at.left : 0;
  at.end_row = w->in_height - at.top < w->height ? w->in_height - at.top : w->height;
  at.end_column = w->in_width - at.left < w->width ? w->in_width - at.left : w->width;
  return at;
}

/* The number of the first pixel of the input in a row of the window. */
static inline int recu_first_pixel(const recu_window *w, const recu_place *at, int row) {
  return (at->top + row) * w->in_width + at->left + at->column;
}

/* Computes the exact sums of products of signs. Padding adds 0.
   Writes `features` sums, and further sums up to a multiple of RECU_LANES.
   kernel: (features / 8 rounded up, height, width, words, 8). */
static inline void recu_binary_conv(const recu_window *w, int pixel, const uint32_t *in, int channels,
                                    const uint32_t *kernel, int features, int32_t *sums) {
  const recu_place at = recu_place_of(w, pixel);
  const int words = (channels + 31) / 32, columns = at.end_column - at.column;
  const int products = (at.end_row - at.row) * columns * channels;
  const int kernel_row = w->width * words * RECU_LANES;
  for (int f = 0; f < features; f += RECU_LANES) {
    uint32_t counts[RECU_LANES] = {0};
    for (int row = at.row; row < at.end_row; row++)
      recu_count_differences(in + recu_first_pixel(w, &at, row) * words,
                             kernel + row * kernel_row + at.column * words * RECU_LANES, columns * words, counts);
    for (int lane = 0; lane < RECU_LANES; lane++) sums[f + lane] = products - 2 * (int32_t)counts[lane];
    kernel += w->height * kernel_row;
  }
}

static inline void recu_clear(float *row, int count) {
  for (int i = 0; i < count; i++) row[i] = 0.0f;
}

/* recu_collect, recu_collect_signs and recu_collect_image copy the inputs of a window to `patch`,
   (height, width, channels). Padding is 0. */
static inline void recu_collect(const recu_window *w, int pixel, const float *in, int channels, float *patch) {
  const recu_place at = recu_place_of(w, pixel);
  recu_clear(patch, w->height * w->width * channels);
  for (int row = at.row; row < at.end_row; row++) {
    const float *from = in + recu_first_pixel(w, &at, row) * channels;
    float *to = patch + (row * w->width + at.column) * channels;
    for (int i = 0; i < (at.end_column - at.column) * channels; i++) to[i] = from[i];
  }
}

static inline void recu_collect_signs(const recu_window *w, int pixel, const uint32_t *in, int channels, float *patch) {
  const recu_place at = recu_place_of(w, pixel);
  const int words = (channels + 31) / 32;
  recu_clear(patch, w->height * w->width * channels);
  for (int row = at.row; row < at.end_row; row++)
    for (int column = at.column; column < at.end_column; column++) {
      const uint32_t *from = in + (recu_first_pixel(w, &at, row) + column - at.column) * words;
      float *to = patch + (row * w->width + column) * channels;
      for (int c = 0; c < channels; c++) to[c] = (from[c / 32] >> (c % 32)) & 1u ? 1.0f : -1.0f;
    }
}

/* values: (channels, 256), the normalized value of each byte in each channel. */
static inline void recu_collect_image(const recu_window *w, int pixel, const uint8_t *in, const float *values,
                                      int channels, float *patch) {
  const recu_place at = recu_place_of(w, pixel);
  recu_clear(patch, w->height * w->width * channels);
  for (int row = at.row; row < at.end_row; row++)
    for (int column = at.column; column < at.end_column; column++) {
      const uint8_t *from = in + (recu_first_pixel(w, &at, row) + column - at.column) * channels;
      float *to = patch + (row * w->width + column) * channels;
      for (int c = 0; c < channels; c++) to[c] = values[256 * c + from[c]];
    }
}

static inline void recu_image(float *row, const uint8_t *in, const float *values, int channels) {
  for (int c = 0; c < channels; c++) row[c] = values[256 * c + in[c]];
}

/* Multiplies the vector `in` by the matrix `kernel`, (count, features), both real. fmaf rounds once for each
   multiply-add, as the trained model does. */
static inline void recu_multiply(const float *in, int count, const float *kernel, int features, float *row) {
  recu_clear(row, features);
  for (int i = 0; i < count; i++, kernel += features)
    for (int f = 0; f < features; f++) row[f] = fmaf(in[i], kernel[f], row[f]);
}

static inline void recu_max_pool(const recu_window *w, int pixel, const float *in, int channels, float *row) {
  const recu_place at = recu_place_of(w, pixel);
  const float *first = in + recu_first_pixel(w, &at, at.row) * channels;
  for (int c = 0; c < channels; c++) row[c] = first[c];
  for (int y = at.row; y < at.end_row; y++)
    for (int x = at.column; x < at.end_column; x++) {
      const float *from = in + (recu_first_pixel(w, &at, y) + x - at.column) * channels;
      for (int c = 0; c < channels; c++) row[c] = from[c] > row[c] ? from[c] : row[c];
    }
}

/* Takes the largest bit of the window in each channel. In the channels that `least` marks, takes the smallest bit. */
static inline void recu_max_pool_signs(const recu_window *w, int pixel, const uint32_t *in, int channels,
                                       const uint32_t *least, uint32_t *out) {
  const recu_place at = recu_place_of(w, pixel);
  const int words = (channels + 31) / 32;
  for (int i = 0; i < words; i++) {
    uint32_t any = 0;
    for (int y = at.row; y < at.end_row; y++)
      for (int x = at.column; x < at.end_column; x++)
        any |= in[(recu_first_pixel(w, &at, y) + x - at.column) * words + i] ^ least[i];
    out[i] = any ^ least[i];
  }
}

static inline void recu_avg_pool(const recu_window *w, int pixel, const float *in, int channels, float *row) {
  const recu_place at = recu_place_of(w, pixel);
  recu_clear(row, channels);
  for (int y = 0; y < w->height; y++)
    for (int x = 0; x < w->width; x++) {
      const float *from = in + (recu_first_pixel(w, &at, y) + x) * channels;
      for (int c = 0; c < channels; c++) row[c] += from[c];
    }
  for (int c = 0; c < channels; c++) row[c] /= (float)(w->height * w->width);
}

static inline void recu_mean(const float *in, int pixels, int channels, float *row) {
  recu_clear(row, channels);
  for (int p = 0; p < pixels; p++)
    for (int c = 0; c < channels; c++) row[c] += in[p * channels + c];
  for (int c = 0; c < channels; c++) row[c] /= (float)pixels;
}

#endif
