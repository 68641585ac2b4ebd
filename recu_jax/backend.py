"""What each backend needs to be correct and fast. The one place that knows one backend from another.

CPU: YNNPACK fusions off (they return garbage for some programs), long sums as matrix products, one training step a
dispatch. GPU and TPU: none of this, and many steps a dispatch.
"""

import importlib.metadata
import os
import tempfile

import jax

from recu_jax.errors import UserError

_YNN_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
# XLA aborts the process on a flag it does not know. 0.10.0 knows this one, 0.7.2 does not; the fusions are on by
# default since 0.10.2.
_YNN_FLAG_SINCE = (0, 10)
# On the CPU a convolution's gradient inside lax.scan is 30-100 times slower, elsewhere a dispatch costs more than
# the scan does.
_STEPS_PER_DISPATCH = {"cpu": 1}
_STEPS_PER_DISPATCH_ACCELERATOR = 64


def _jaxlib_version() -> tuple[int, ...]:
    numbers = importlib.metadata.version("jaxlib").split(".")[:3]
    return tuple(int("".join(c for c in n if c.isdigit()) or 0) for n in numbers)


def set_xla_flags() -> None:
    """Turns off XLA's YNNPACK fusions on the CPU, in the environment variable XLA_FLAGS.

    Takes effect if it is called before JAX first touches a device. A value already set by the user stays. Programs
    that import our layers and run on a CPU with jaxlib 0.10 or later should call it too: with these fusions on,
    some jitted programs return wrong numbers, ours or not.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _jaxlib_version() >= _YNN_FLAG_SINCE and _YNN_FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_YNN_FLAG}=".strip()


def keep_compiled_programs(folder: str | None) -> None:
    """Has XLA keep what it compiles from now on in `folder`, and take it from there; None leaves that as it is.

    Raises:
      UserError: the folder cannot be made or written to.
    """
    if folder is None:
        return
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"config.compilation_cache_dir={folder} cannot be written to: {error.strerror}; give another folder"
        ) from error
    jax.config.update("jax_compilation_cache_dir", folder)
    # JAX leaves out what takes less than a second to compile: of a run on the digits nearly everything.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def sums_by_dots() -> bool:
    """Whether long sums are faster as products with a vector of ones; see `recu_jax.sums`."""
    return jax.default_backend() == "cpu"


def steps_per_dispatch(steps_per_epoch: int) -> int:
    """How many training steps one call to the device should hold, at most `steps_per_epoch`."""
    best = _STEPS_PER_DISPATCH.get(jax.default_backend(), _STEPS_PER_DISPATCH_ACCELERATOR)
    return min(best, steps_per_epoch)
