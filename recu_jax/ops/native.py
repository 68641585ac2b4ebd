"""Finds the compiled kernels of csrc/ and registers them with XLA.

setup.py builds them beside this file. Without them, or on other devices than CPUs, the package `ops` uses XLA's own
convolution.
"""

import ctypes
import functools
import hashlib
import logging
import pathlib

import jax
import jaxlib

from recu_jax.errors import one_line

TARGETS = (
    "recu_conv_sums",
    "recu_conv_thresholds",
    "recu_conv_affine",
    "recu_kernel_gradient",
    "recu_input_gradient",
    "recu_pack",
    "recu_unit_sums",
    "recu_unit_evaluate",
    "recu_unit_normalize",
    "recu_unit_gradient_sums",
    "recu_unit_gradients",
    "recu_weight_signs",
    "recu_weight_gradient",
)


@functools.cache
def instruction_sets() -> tuple[str, ...]:
    """Lists the instruction sets for which kernels are compiled and which this processor has, fastest first.

    The first call registers the kernels with XLA. If there are no kernels built from the current sources, the first
    call logs a warning, and the result is empty. `load` describes when the result is empty for another reason.
    """
    folder = pathlib.Path(__file__).parent
    # A checkout may hold one library for each version of Python, built at different times. Every version of Python can
    # load any of them.
    found = sorted(folder.glob("_kernels*.so"))
    if current := [path for path in found if is_of_its_sources(path)]:
        return load(current[0])
    logging.getLogger(__name__).warning(
        "%s in %s; 1-bit models run by XLA on +-1 numbers, as exact but several times slower. If a C++ compiler is "
        "installed, type in the clone of recu_jax: pip install -e .",
        "the compiled kernels are older or newer than their sources" if found else "there are no compiled kernels",
        folder,
    )
    return ()


def is_of_its_sources(kernels: pathlib.Path) -> bool:
    """Tells whether a library was built from the sources beside it; True if there are no sources, as in a wheel."""
    # setup.py computes the same digest and stores it in the library.
    sources = sorted(path for path in (kernels.parent / "csrc").glob("*") if path.suffix in (".cc", ".h"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    return not sources or digest.encode() in kernels.read_bytes()


def load(path: pathlib.Path) -> tuple[str, ...]:
    """Registers the kernels of the shared library `path`.

    Returns:
      The instruction sets of these kernels that this processor has, fastest first. If the library cannot be loaded or
      XLA refuses a kernel, a warning is logged, and the result is empty. It is also empty if JAX may not use the CPU,
      as with JAX_PLATFORMS=cuda.
    """
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        logging.getLogger(__name__).warning("%s does not load (%s); 1-bit models run by XLA", path, error)
        return ()
    # Creates the devices first. Otherwise a kernel that XLA refuses would make JAX fail to create any device.
    try:
        jax.devices("cpu")
    except RuntimeError:
        return ()
    try:
        for target in TARGETS:
            jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, target)), platform="cpu")
    except jax.errors.JaxRuntimeError as error:
        logging.getLogger(__name__).warning(
            "jaxlib %s refuses the compiled kernels of recu_jax (%s); 1-bit models run by XLA, several times slower",
            jaxlib.__version__, one_line(error, 200),
        )  # fmt: skip
        return ()
    library.recu_isas.restype = ctypes.c_char_p
    return tuple(library.recu_isas().decode().split())


def cpu_backend() -> str:
    """Returns the backend for this machine's CPU: the fastest of `instruction_sets()`, or "xla" if there is none."""
    return next(iter(instruction_sets()), "xla")
