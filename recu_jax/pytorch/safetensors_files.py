"""Reads files of safetensors (github.com/huggingface/safetensors) as NumPy arrays. Nothing in a file is executed."""

import os
import pathlib

import numpy as np

from recu_jax.errors import UserError, one_line


def is_one(path: str | pathlib.Path) -> bool:
    """Tells whether a file is a safetensors file, by its name or else by its first bytes."""
    if pathlib.Path(path).suffix == ".safetensors":
        return True
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except OSError:
        return False
    # The first 8 bytes are the size of the header. The header follows, in JSON.
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < os.path.getsize(path)


def read(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a file. Floating arrays become float32, except that float64 arrays stay float64.

    Raises:
      UserError: the file is missing or damaged, holds no arrays or an empty one, or has a dtype that NumPy lacks.
    """
    import ml_dtypes  # noqa: F401  (NumPy then knows bfloat16)
    import safetensors.numpy

    try:
        arrays = safetensors.numpy.load_file(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; give the path of a file of weights") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}; give a file of weights") from error
    except Exception as error:  # safetensors and NumPy raise several types for damaged bytes and rare dtypes
        raise UserError(
            f"{path} is no whole file of safetensors, or has numbers that NumPy lacks: {one_line(error, 120)}; fetch "
            "it again, or save it as float32"
        ) from error
    if not arrays:
        raise UserError(f"{path} holds no tensors; save the state_dict of a model with parameters")
    for name, array in arrays.items():
        if not array.size:
            raise UserError(f"{path}: entry {name!r} is of shape {array.shape}, without numbers; save it again")
    return {k: a if a.dtype.kind in "biu" or a.dtype == np.float64 else a.astype(np.float32) for k, a in arrays.items()}
