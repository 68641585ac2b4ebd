"""Four virtual CPU devices, correct XLA flags, no silent broadcasting between ranks."""

import logging
import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"

from recu_jax import set_xla_flags

set_xla_flags()

import compiled_kernels
import jax
import pytest

# Before the first test: with and without them, runs that are compared bit for bit are rounded differently.
compiled_kernels.build()
jax.config.update("jax_numpy_rank_promotion", "raise")
# Of a damaged checkpoint every array that was being read says so, at length, after the error was raised.
logging.getLogger("asyncio").setLevel(logging.CRITICAL)


@pytest.fixture
def x64():
    """float64 within one test."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture
def quick_compile():
    """XLA without the backend's optimisations, for tests that compile much and compute little."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
