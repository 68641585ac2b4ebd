"""Compares thresholds with folding in float64, for every sum, and with exact arithmetic where the two differ."""

import numpy as np

from recu_jax.deploy import fold


def test_thresholds_are_float64_folding_for_every_sum():
    r = np.random.default_rng(0)
    largest, channels = 4608, 200
    alpha, mean, factor, bias = r.standard_normal((4, channels)).astype(np.float32)
    alpha, mean = alpha / 20, mean * 3
    # Channels 0 to 3 have the same value at every sum. Channel 4 has the value 0 at the sum 0.
    alpha[:2], factor[2:4], mean[4], bias[4] = 0, 0, 0, 0
    bias[:4] = 1, -1, 1, -1
    alpha[5:7], bias[5:7], factor[5:7] = 1e-6, (50, -50), 1  # the same sign at every sum
    alpha[7], mean[7], factor[7], bias[7] = 0.5, 1, 2, 0  # the value is exactly 0 at the sum 2
    threshold, direction = fold.thresholds(alpha, np.stack([mean, factor, bias]), largest)
    assert set(direction) == {-1, 1}
    sums = np.arange(-largest, largest + 1)
    for c in range(channels):
        folded = np.float64(alpha[c]) * np.float64(factor[c]) * sums + (
            np.float64(bias[c]) - np.float64(mean[c]) * np.float64(factor[c])
        )
        bits = direction[c] * sums >= threshold[c]
        differ = sums[bits != (folded >= 0)]
        # If the float64 value is near 0, its rounding may give the wrong sign. The exact value decides.
        exact = [_exact(alpha[c], s, mean[c], factor[c], bias[c]) for s in differ.tolist()]
        assert [bool(b) for b in direction[c] * differ >= threshold[c]] == [e >= 0 for e in exact], c
    assert len(np.unique(threshold)) > 150


def _exact(alpha, s, mean, factor, bias):
    from fractions import Fraction

    a, m, f, b = (Fraction(float(v)) for v in (alpha, mean, factor, bias))
    return (a * s - m) * f + b
