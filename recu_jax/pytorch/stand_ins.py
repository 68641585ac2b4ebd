"""Defines stand-ins for types that training scripts save beside the weights, so that PyTorch can read such files.

`torch.load(weights_only=True)` refuses all types but tensors, numbers and containers. With `STAND_INS` it also reads
files that name a few harmless types, and creates a stand-in for each object of these types. Nothing of the types
themselves is imported or run: a number of NumPy becomes a number of Python, and everything else becomes `Ignored`.
"""

import contextlib
from typing import Any

import numpy as np

# Kinds of NumPy dtypes whose scalars are read: bool, signed and unsigned integers, floats.
_NUMBERS = "biuf"


class Ignored:
    """Stands for an object that is not read. It takes any arguments and keeps none."""

    def __new__(cls, *_: Any) -> Any:
        return object.__new__(cls)

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Dtype(Ignored):
    """Stands for `numpy.dtype`. It keeps the text, such as "f8", and the byte order."""

    text, order = "", "="

    def __init__(self, *arguments: Any):
        if arguments and isinstance(arguments[0], str):
            self.text = arguments[0]

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.order = state[1]


def _scalar(dtype: Any = None, data: Any = b"", *_: Any) -> Any:
    """Stands for NumPy's function `scalar`. Returns the number that `data` holds, or `Ignored()` if it holds none."""
    if isinstance(dtype, _Dtype) and isinstance(data, bytes) and dtype.text[:1] in _NUMBERS:
        with contextlib.suppress(TypeError, ValueError):
            numbers = np.frombuffer(data, np.dtype(dtype.order + dtype.text))
            if len(numbers) == 1:
                return numbers[0].item()
    return Ignored()


# For `torch.serialization.safe_globals`. NumPy 2 renamed `numpy.core`, and Python 3.13 moved the classes of paths.
STAND_INS = (
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((Ignored, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    (_Dtype, "numpy.dtype"),
    (Ignored, "numpy.ndarray"),
    (Ignored, "argparse.Namespace"),
    *((Ignored, f"{module}.{kind}Path") for module in ("pathlib", "pathlib._local") for kind in ("Posix", "Windows")),
)
