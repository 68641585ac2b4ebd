"""Code that `tests.support.forked` and `tests.mutation.forks` share: both import libraries once, and then fork.

An import of JAX, Flax, Orbax and Grain takes seconds. A process that is forked after the import needs no import.
"""

import importlib
import importlib.util
import os
from collections.abc import Iterable, Sequence

# OpenBLAS starts threads when NumPy is imported, and a forked process would lack them. With this variable at 1, it
# starts none.
ONE_THREAD = "OPENBLAS_NUM_THREADS"


def import_installed(modules: Iterable[str]) -> None:
    """Imports the modules whose packages are installed. Fails if an import has started a thread."""
    for module in modules:
        if importlib.util.find_spec(module.partition(".")[0]):
            importlib.import_module(module)
    threads = os.listdir("/proc/self/task")
    assert threads == [str(os.getpid())], f"imports have started {len(threads) - 1} threads"


def redirect(outputs: Sequence[str | os.PathLike]) -> None:
    """Makes stdin of this process empty. Appends its stdout and stderr to the two files in `outputs`."""
    for descriptor, path in enumerate((os.devnull, *outputs)):
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)
