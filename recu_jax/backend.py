"""What each backend needs to be correct and fast. The one place that knows one backend from another.

CPU: YNNPACK fusions off (they return garbage for some programs), kernel gradients as matrix products where the
installed XLA is slow at them, one training step a dispatch. GPU and TPU: none of this, and many steps a dispatch.
"""

import importlib.metadata
import os

import jax

_YNN_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
# XLA aborts the process on a flag it does not know; this is the first release line seen to know this one.
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


def kernel_gradient_by_dots() -> bool:
    """Whether the kernel gradient of a convolution is faster as matrix products over patches.

    True on the CPU before jaxlib 0.11, whose layout assignment makes a strided copy of the activations: a
    `cifar_resnet20` train step takes 3.3 s without and 2.0 s with the products there (batch 256, 2 cores).
    """
    return jax.default_backend() == "cpu" and _jaxlib_version() < (0, 11)


def steps_per_dispatch(steps_per_epoch: int) -> int:
    """How many training steps one call to the device should hold, at most `steps_per_epoch`."""
    best = _STEPS_PER_DISPATCH.get(jax.default_backend(), _STEPS_PER_DISPATCH_ACCELERATOR)
    return min(best, steps_per_epoch)
