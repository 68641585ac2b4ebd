/* The digits network for docs/_static/draw.js, which compiles to WebAssembly: no file, no printing, no import. */
#include "digits.h"

static uint8_t pixels[DIGITS_HEIGHT * DIGITS_WIDTH * DIGITS_CHANNELS];
static float scores[DIGITS_CLASSES];

__attribute__((export_name("pixels"))) uint8_t *recu_pixels(void) { return pixels; }
__attribute__((export_name("scores"))) float *recu_scores(void) { return scores; }
/* Returns 0, and the scores of the pixels are there. */
__attribute__((export_name("predict"))) int recu_predict(void) { return digits_predict(pixels, scores); }
/* Of which sources this is; page.py computes it. */
__attribute__((export_name("sources"))) const char *recu_sources(void) { return RECU_SOURCES; }
