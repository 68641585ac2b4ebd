"""Sets up all tests: four virtual CPU devices, XLA flags, errors for rank promotion, and a count of slow tests."""

import logging
import os
import pathlib
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"

# When jax 0.10 reads a program from the cache below, it logs a page about some processors, although they are the same.
# Level 3 hides this page.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Compiled programs are kept for all workers, processes and later calls of pytest. A program's cache key
# includes XLA's version and flags.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "compiled")
)
from tests.support import COMPILATION_CACHE

os.environ.update(COMPILATION_CACHE)

from recu_jax import set_xla_flags

set_xla_flags()

import hypothesis
import jax
import pytest

from tests.support import compiled_kernels, processes

# Builds the kernels before the first test. Runs with and without them round differently, and tests compare bit for bit.
compiled_kernels.build()
jax.config.update("jax_numpy_rank_promotion", "raise")
# LLVM's optimizations are off, because most tests compile much and compute little. They would take two thirds of the
# time (8 of 13 s of processor time for a small train step), and change only the last bit of results. Tests marked
# `as_users_compile`, and most tests that start a process, compile with the optimizations, as users do.
jax.config.update("jax_disable_most_optimizations", True)
# If a checkpoint is damaged, asyncio logs a long message for each array that was being read, after the error.
logging.getLogger("asyncio").setLevel(logging.CRITICAL)

# The same examples in each run, so that a failure comes again. A busy machine makes examples slow.
hypothesis.settings.register_profile(
    "repeatable",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=20,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("repeatable")

_LEFT_OUT = pytest.StashKey[int]()
_OF_WORKER = "slow_tests_left_out"


@pytest.fixture(params=["cpu", "gpu"])
def platform_forms(request, monkeypatch):
    """Runs a test twice: with the forms of functions for CPUs, and with those for GPUs in their place."""
    if request.param == "cpu":
        return

    def of_gpus(*args, default, gpu=None, **others):
        return (gpu or default)(*args)

    for name, module in list(sys.modules.items()):
        if name.startswith("recu_jax") and callable(getattr(module, "by_platform", None)):
            monkeypatch.setattr(module, "by_platform", of_gpus)


@pytest.fixture
def x64():
    """Turns on float64 for one test."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(autouse=True)
def _as_users_compile(request):
    """Turns on all of XLA's optimizations in tests with the mark `as_users_compile`."""
    marked = request.node.get_closest_marker("as_users_compile") is not None
    if marked:
        jax.config.update("jax_disable_most_optimizations", False)
    yield
    if marked:
        jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(autouse=True)
def _no_run_outlives_its_test():
    """Ends all runs after a test, even if the test fails. A process that still runs after all tests is an error."""
    yield
    processes.end_all()


def pytest_deselected(items):
    """Counts the slow tests that `-m "not slow"` leaves out."""
    if items:
        config = items[0].config
        slow = sum(item.get_closest_marker("slow") is not None for item in items)
        config.stash[_LEFT_OUT] = config.stash.get(_LEFT_OUT, 0) + slow


def pytest_sessionfinish(session):
    """Passes on the count of a worker of pytest-xdist. All workers leave out the same tests."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[_OF_WORKER] = session.config.stash.get(_LEFT_OUT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Receives the count of a worker of pytest-xdist."""
    counted = getattr(node, "workeroutput", {}).get(_OF_WORKER, 0)
    node.config.stash[_LEFT_OUT] = max(node.config.stash.get(_LEFT_OUT, 0), counted)


def pytest_terminal_summary(terminalreporter, config):
    """Says how many slow tests were left out, and how to run all."""
    if left_out := config.stash.get(_LEFT_OUT, 0):
        terminalreporter.write_line(
            f"left out: {left_out} slow tests; to run all: pytest -n auto -m 'slow or not slow'"
        )
