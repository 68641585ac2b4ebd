"""Chooses settings that make each backend correct and fast.

- CPU: YNNPACK fusions are off, because they return wrong numbers for some programs. One dispatch holds one training
  step.
- GPU and TPU: no XLA flag is set. One dispatch holds many steps.
"""

import importlib.metadata
import os
import tempfile

import jax

from recu_jax.errors import UserError

_YNN_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
# XLA aborts the process on an unknown flag. jaxlib 0.10.0 knows this flag, 0.7.2 does not. Since 0.10.2 the fusions are
# on by default.
_YNN_FLAG_SINCE = (0, 10)
# On the CPU a convolution's gradient is 30-100 times slower inside lax.scan. On GPU and TPU a dispatch costs more than
# the scan.
_STEPS_PER_DISPATCH = {"cpu": 1}
_STEPS_PER_DISPATCH_ACCELERATOR = 64


def _jaxlib_version() -> tuple[int, ...]:
    numbers = importlib.metadata.version("jaxlib").split(".")[:3]
    return tuple(int("".join(c for c in n if c.isdigit()) or 0) for n in numbers)


def set_xla_flags() -> None:
    """Turns off XLA's YNNPACK fusions on the CPU, in the environment variable XLA_FLAGS.

    Call it before JAX first uses a device; later it has no effect. A value that the user has set stays.

    The commands call it. Call it yourself in a program of your own that imports the layers and runs on a CPU with
    jaxlib 0.10 or later. With these fusions some jitted programs return wrong numbers, with or without layers of
    recu_jax.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _jaxlib_version() >= _YNN_FLAG_SINCE and _YNN_FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_YNN_FLAG}=".strip()


def keep_compiled_programs(folder: str | None) -> None:
    """Makes XLA store compiled programs in `folder` and reuse them. With `folder=None` it does nothing.

    Raises:
      UserError: the folder cannot be created or written to.
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
    # By default JAX skips programs that compile in less than a second, as nearly all programs of configs/digits.py do.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def steps_per_dispatch(steps_per_epoch: int, platform: str) -> int:
    """Returns how many training steps one call to a device should hold, at most `steps_per_epoch`.

    If possible, an epoch then consists of calls of equal length, because each length is compiled on its own.

    Args:
      steps_per_epoch: training steps of an epoch.
      platform: platform of the device, as in `jax.Device.platform`.
    """
    best = _STEPS_PER_DISPATCH.get(platform, _STEPS_PER_DISPATCH_ACCELERATOR)
    equal = [n for n in range(best // 2, best + 1) if n and steps_per_epoch % n == 0]
    return max(equal, default=min(best, steps_per_epoch))
