"""Batch norm after a binary convolution, folded: into numbers a channel, or into a threshold on the integer sum.

A binary convolution gives an integer sum s. What follows is `(alpha s - mean) * factor + bias`, `factor = scale /
sqrt(var + 1e-5)`: one affine function a channel. Its four numbers are kept, and not multiplied out to two, because a
sign follows the shortcut that is added to it and must be the trained model's: multiplied out, 381 of the 369 million
signs that a trained cifar_resnet20 makes of 2,000 test images were others, none as it is, at the cost of one more
multiply-add (experiments/results/export_check).

Where no shortcut comes between, only the sign of the function matters, which is a threshold on s: exact.
"""

import jax
import numpy as np
from jax import lax

from recu_jax.models.batch_norm import EPSILON


def norm_rows(scale: np.ndarray, bias: np.ndarray, mean: np.ndarray, var: np.ndarray) -> np.ndarray:
    """Mean, factor and bias of a batch norm in evaluation, float32 (3, channels), as `models.batch_norm` has them."""
    factor = jax.jit(lambda scale, var: scale * lax.rsqrt(var + EPSILON))(np.float32(scale), np.float32(var))
    return np.stack([np.float32(mean), np.asarray(factor), np.float32(bias)])


def thresholds(alpha: np.ndarray, rows: np.ndarray, largest_sum: int) -> np.ndarray:
    """For which sums `(alpha s - mean) * factor + bias >= 0`, in float64.

    The function of s is monotone, in exact numbers and in rounded ones, so that these sums are the first or the last
    of all; which, is found by computing it for every sum that can occur.

    Args:
      alpha: (channels,).
      rows: mean, factor, bias: (3, channels).
      largest_sum: the sums are the integers from minus this to this.

    Returns:
      int32, (2, channels): threshold and direction, so that the bit is `direction * s >= threshold`.
    """
    sums = np.arange(-largest_sum, largest_sum + 1)
    result = np.empty((2, len(alpha)), np.int32)
    for channel, (a, mean, factor, bias) in enumerate(zip(*np.asarray([alpha, *rows], np.float64), strict=True)):
        positive = (a * sums - mean) * factor + bias >= 0
        falls = positive[0] and not positive[-1]
        # How many sums are positive says where they begin, counted from the end they lie at.
        result[:, channel] = largest_sum + 1 - np.count_nonzero(positive), -1 if falls else 1
    return result


def least_of_window(alpha: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Booleans (channels,): where the sign after max pooling of `alpha s` and batch norm is the window's least bit.

    With a positive factor the largest value has the largest sign, whatever the sign of alpha, with a negative one the
    least.
    """
    return np.asarray(rows[1]) < 0
