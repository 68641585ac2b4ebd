"""Folds the batch norm after a binary convolution into four numbers for each channel, or into a threshold.

A binary convolution gives an integer sum s. Alpha and batch norm turn s into `(alpha s - mean) * factor + bias` with
`factor = scale / sqrt(var + 1e-5)`, one affine function for each channel. An exported file keeps alpha, mean, factor
and bias. Two numbers would be enough for an affine function, but they change the rounding, and so the signs after the
shortcut. A trained cifar_resnet20 computes 369 million signs for 2,000 test images. With two numbers, 381 of them
differed from the trained model; with four numbers, none. The cost is one more multiply-add
(experiments/results/export_check).

Without a shortcut, only the sign of the affine function matters. A threshold on s gives this sign exactly.
"""

import jax
import numpy as np
from jax import lax

from recu_jax.models.batch_norm import EPSILON


def norm_rows(scale: np.ndarray, bias: np.ndarray, mean: np.ndarray, var: np.ndarray) -> np.ndarray:
    """Computes mean, factor and bias of a batch norm in evaluation, with the same rounding as `models.batch_norm`.

    Returns:
      float32, (3, channels).
    """
    factor = jax.jit(lambda scale, var: scale * lax.rsqrt(var + EPSILON))(np.float32(scale), np.float32(var))
    return np.stack([np.float32(mean), np.asarray(factor), np.float32(bias)])


def thresholds(alpha: np.ndarray, rows: np.ndarray, largest_sum: int) -> np.ndarray:
    """Finds the threshold on a sum s that decides whether `(alpha s - mean) * factor + bias >= 0`, in float64.

    The function of s is monotone, even with rounding. So the condition holds for all sums from a threshold up, or for
    all sums from a threshold down. The threshold is found by computing the function for every possible sum.

    Args:
      alpha: (channels,).
      rows: mean, factor and bias, (3, channels).
      largest_sum: the possible sums are the integers from -largest_sum to largest_sum.

    Returns:
      Threshold and direction (1 or -1), int32, (2, channels). The bit of a sum is `direction * s >= threshold`.
    """
    sums = np.arange(-largest_sum, largest_sum + 1)
    result = np.empty((2, len(alpha)), np.int32)
    for channel, (a, mean, factor, bias) in enumerate(zip(*np.asarray([alpha, *rows], np.float64), strict=True)):
        positive = (a * sums - mean) * factor + bias >= 0
        falls = positive[0] and not positive[-1]
        # The sums with bit 1 are all at one end of the range, so their number gives the threshold.
        result[:, channel] = largest_sum + 1 - np.count_nonzero(positive), -1 if falls else 1
    return result


def least_of_window(alpha: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Finds the channels in which max pooling, then batch norm, then sign, give the smallest bit of the window.

    The pooling takes the largest `alpha s` of the window. If the factor is positive, this value has the largest bit. If
    the factor is negative, this value has the smallest bit. The sign of alpha does not matter.

    Args:
      alpha: (channels,).
      rows: mean, factor and bias, (3, channels).

    Returns:
      Booleans, (channels,).
    """
    return np.asarray(rows[1]) < 0
