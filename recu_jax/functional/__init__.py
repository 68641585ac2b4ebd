"""Implements ReCU as pure functions, SPEC.md sections 1 to 3 (Xu et al., "ReCU", ICCV 2021, arXiv 2103.12369).

Arrays are channels last. A kernel is (*window, in_features / groups, features): its last axis is the output channel.
Results have the dtype of the input, except that `laplace_scale` returns float32 or wider. Statistics of bfloat16 and
float16 arrays are computed in float32.
"""

from recu_jax.functional.activations import binarize_activations, normalize_sample
from recu_jax.functional.products import conv_of_signs, dense_of_signs
from recu_jax.functional.signs import approx_sign, sign, ste_sign
from recu_jax.functional.weights import (
    binarize_weights,
    check_tau,
    check_tau_range,
    clamped_weights,
    laplace_quantile,
    laplace_scale,
    mean_alpha,
    recu,
    standardize,
)

__all__ = [
    "approx_sign",
    "binarize_activations",
    "binarize_weights",
    "check_tau",
    "check_tau_range",
    "clamped_weights",
    "conv_of_signs",
    "dense_of_signs",
    "laplace_quantile",
    "laplace_scale",
    "mean_alpha",
    "normalize_sample",
    "recu",
    "sign",
    "standardize",
    "ste_sign",
]
