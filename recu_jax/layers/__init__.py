"""Provides Linen layers with 1-bit weights and activations, drop-in replacements for `nn.Conv` and `nn.Dense`.

    y = BinaryConv(64, (3, 3))(x, tau=tau, train=True)

`BinaryConv` and `BinaryDense` hold real latent weights (`kernel`) and, by default, one learned scale per output channel
(`alpha`). They binarize as ReCU does, or with other binarizers of `recu_jax.binarizers`.

Training with ReCU needs `tau`; `tau=None` turns the clamp off. Tau changes the gradients. It does not change the
outputs, except with `alpha="mean"`. If a model does not pass tau to its layers, use `recu_jax.with_tau`. It gives
tau to all layers, and layers that are called without `train` then use train=True.
"""

from recu_jax.layers.binary import BinaryConv, BinaryDense
from recu_jax.layers.full_precision import Conv, Dense
from recu_jax.layers.not_given import NOT_GIVEN, NotGiven, Number, Tau
from recu_jax.layers.one_bit_layer import (
    ALPHAS,
    OWN_SCALE,
    PROGRESS,
    SCALED_SIGNS,
    SIGNS,
    TAU,
    Alpha,
    kaiming_normal,
)

__all__ = [
    "ALPHAS", "NOT_GIVEN", "OWN_SCALE", "PROGRESS", "SCALED_SIGNS", "SIGNS", "TAU", "Alpha", "BinaryConv",
    "BinaryDense", "Conv", "Dense", "NotGiven", "Number", "Tau", "kaiming_normal",
]  # fmt: skip
