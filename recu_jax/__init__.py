"""1-bit neural networks in JAX: ReCU (Xu et al., ICCV 2021) as pure functions, Flax layers, models, and training."""

from recu_jax import functional, layers, models, schedules
from recu_jax.backend import set_xla_flags
from recu_jax.errors import RunFailed, UserError
from recu_jax.functional import (
    approx_sign,
    binarize_activations,
    binarize_weights,
    binary_conv,
    binary_dense,
    computed_alpha,
    laplace_quantile,
    laplace_scale,
    latent_to_clamped,
    normalize_sample,
    recu,
    sign,
    standardize,
    ste_sign,
)
from recu_jax.layers import BinaryConv, BinaryDense
from recu_jax.models import create_model
from recu_jax.schedules import (
    cosine_learning_rate,
    exponential_tau,
    linear_learning_rate,
    step_learning_rate,
)

__version__ = "0.1.0"

__all__ = [
    "BinaryConv",
    "BinaryDense",
    "RunFailed",
    "UserError",
    "approx_sign",
    "binarize_activations",
    "binarize_weights",
    "binary_conv",
    "binary_dense",
    "computed_alpha",
    "cosine_learning_rate",
    "create_model",
    "exponential_tau",
    "functional",
    "laplace_quantile",
    "laplace_scale",
    "latent_to_clamped",
    "layers",
    "linear_learning_rate",
    "models",
    "normalize_sample",
    "recu",
    "schedules",
    "set_xla_flags",
    "sign",
    "standardize",
    "ste_sign",
    "step_learning_rate",
]
