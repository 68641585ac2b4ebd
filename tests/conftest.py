"""Four virtual CPU devices, XLA flags, no silent broadcasting between ranks; slow tests only where asked for."""

import logging
import os
import pathlib

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"

# A program is compiled once for all workers, processes and later calls of pytest. Entries are found by the program and
# XLA's version and flags. With a limit of size JAX locks the folder, so that none reads what another is writing.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "compiled")
)
os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(2**31)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

from recu_jax import set_xla_flags

set_xla_flags()

import jax
import pytest

from tests.support import compiled_kernels, processes

# Before the first test: with and without them, runs that are compared bit for bit are rounded differently.
compiled_kernels.build()
jax.config.update("jax_numpy_rank_promotion", "raise")
# Most tests compile much and compute little. LLVM's optimisations are two thirds of that (8 of 13 s of processor time
# for a small train step), and change no result but in its last bit. What users get with them is seen by tests marked
# `as_users_compile`, and by most that start a process.
jax.config.update("jax_disable_most_optimizations", True)
# Of a damaged checkpoint every array that was being read says so, at length, after the error was raised.
logging.getLogger("asyncio").setLevel(logging.CRITICAL)

_LEFT_OUT = pytest.StashKey[int]()
_OF_WORKER = "slow_tests_left_out"


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


@pytest.fixture(autouse=True)
def _no_run_outlives_its_test():
    """Also where the test fails: a process that still runs would be an error of its own at the end of all tests."""
    yield
    processes.end_all()


def pytest_deselected(items):
    """Counts the slow tests that `-m "not slow"` leaves out."""
    if items:
        config = items[0].config
        slow = sum(item.get_closest_marker("slow") is not None for item in items)
        config.stash[_LEFT_OUT] = config.stash.get(_LEFT_OUT, 0) + slow


def pytest_sessionfinish(session):
    """Workers of pytest-xdist collect and leave out; all of them the same."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[_OF_WORKER] = session.config.stash.get(_LEFT_OUT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """What a worker of pytest-xdist counted."""
    counted = getattr(node, "workeroutput", {}).get(_OF_WORKER, 0)
    node.config.stash[_LEFT_OUT] = max(node.config.stash.get(_LEFT_OUT, 0), counted)


def pytest_terminal_summary(terminalreporter, config):
    """Says how many slow tests were left out, and how to run all."""
    if left_out := config.stash.get(_LEFT_OUT, 0):
        terminalreporter.write_line(
            f"left out: {left_out} slow tests; to run all: pytest -n auto -m 'slow or not slow'"
        )
