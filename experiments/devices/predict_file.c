/* Computes the logits of all images of images.bin, and writes them to logits.bin. The network's folder is `network`. */
#include <stdio.h>

#include "network.h"

static uint8_t image[NETWORK_HEIGHT * NETWORK_WIDTH * NETWORK_CHANNELS];
static float logits[NETWORK_CLASSES];

int main(void) {
  FILE *images = fopen("images.bin", "rb"), *out = fopen("logits.bin", "wb");
  if (images == NULL || out == NULL) return 1;
  unsigned count = 0;
  for (; fread(image, sizeof image, 1, images) == 1; count++)
    if (network_predict(image, logits) != 0 || fwrite(logits, sizeof logits, 1, out) != 1) return 1;
  printf("%s, %u images\n", network_kernels(), count);
  return fclose(out) == 0 && fclose(images) == 0 ? 0 : 1;
}
