"""Draws arrays for tests."""

import jax
import jax.numpy as jnp
import numpy as np


def normal(shape: tuple[int, ...], seed: int = 0, dtype: str = "float32") -> jax.Array:
    """Draws from the standard normal distribution, by NumPy: the same numbers with every version of JAX."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)
