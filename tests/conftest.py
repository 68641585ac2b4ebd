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
# Most tests compile much and compute little. LLVM's optimisations are two thirds of that (8 of 13 s of processor time
# for a small train step), and change no result but in its last bit. What users get with them is seen by tests marked
# `as_users_compile`, and by every one that starts a process.
jax.config.update("jax_disable_most_optimizations", True)
# Of a damaged checkpoint every array that was being read says so, at length, after the error was raised.
logging.getLogger("asyncio").setLevel(logging.CRITICAL)


@pytest.fixture
def x64():
    """float64 within one test."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(autouse=True)
def _as_users_compile(request):
    """Programs with all of XLA's optimisations in tests marked so."""
    marked = request.node.get_closest_marker("as_users_compile") is not None
    if marked:
        jax.config.update("jax_disable_most_optimizations", False)
    yield
    if marked:
        jax.config.update("jax_disable_most_optimizations", True)
