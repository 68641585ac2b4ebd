"""Files of named arrays and a JSON header: safetensors (github.com/huggingface/safetensors), read with care.

Files come from strangers. Nothing in one is executed; sizes and offsets are checked against the bytes that there are
before anything is made of them, so that a file takes no more memory than its own size and a small multiple of its
header. The safetensors package writes them (`write`); reading needs NumPy alone.
"""

import json
import math
import os
import pathlib
from typing import Any, TypeGuard

import numpy as np

from recu_jax.errors import UserError
from recu_jax.replacing import replacing

_DTYPES = {"F32": np.dtype("<f4"), "I32": np.dtype("<i4"), "U32": np.dtype("<u4")}
_LENGTH_BYTES = 8
# Far above what a network needs (imagenet_resnet34's is 40 kB), and little to parse.
_MAX_HEADER_BYTES = 1 << 22
_MAX_DIMENSIONS = 8


def read(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of a file.

    Returns:
      The JSON object under "recu" in the file's metadata, and the arrays by name: float32 (finite), int32 or uint32.

    Raises:
      UserError: the file is not there, or damaged, or is no such file; in one line.
    """
    try:
        data = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; give a file that recu_jax.export wrote") from error
    try:
        return parse(data)
    except UserError as error:
        raise UserError(f"{path} is damaged or no file of recu_jax.export: {error}") from error


def parse(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """`read` of the bytes of a file."""
    if len(data) < _LENGTH_BYTES:
        raise UserError(f"it has {len(data)} bytes")
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if length > min(len(data) - _LENGTH_BYTES, _MAX_HEADER_BYTES):
        raise UserError(f"its header is said to have {length} bytes, the file has {len(data)}")
    index = _json_object(data[_LENGTH_BYTES : _LENGTH_BYTES + length], "its header")
    metadata = index.pop("__metadata__", None)
    text = metadata.get("recu") if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise UserError("its header has no entry 'recu'")
    body = memoryview(data)[_LENGTH_BYTES + length :]
    return _json_object(text, "the entry 'recu'"), _arrays(index, body)


def _json_object(text, what):
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what} is not JSON ({str(error)[:80]!r})") from error
    if not isinstance(found, dict):
        raise UserError(f"{what} is {type(found).__name__}, not an object")
    return found


def _no_constant(name):
    raise ValueError(f"the number {name}")


def _arrays(index, body):
    arrays, spans = {}, []
    for name, entry in index.items():
        begin, end, dtype, shape = _entry(name, entry)
        if end > len(body):
            raise UserError(f"{name[:80]!r} ends at byte {end} of {len(body)}")
        spans.append((begin, end))
        array = np.frombuffer(body[begin:end], dtype).reshape(shape)
        if dtype.kind == "f" and not np.isfinite(array).all():
            raise UserError(f"{name[:80]!r} holds numbers that are not finite")
        arrays[name] = array
    # One after the other and nothing between, as the format has it: no bytes are two arrays' or nobody's.
    ends = [0] + [end for _, end in sorted(spans)]
    if ends[-1] != len(body) or any(begin != before for (begin, _), before in zip(sorted(spans), ends, strict=False)):
        raise UserError("its arrays overlap or leave gaps")
    return arrays


def _entry(name, entry):
    if not isinstance(entry, dict):
        raise UserError(f"the entry of {name[:80]!r} is no object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise UserError(f"{name[:80]!r} has the dtype {str(dtype)[:20]}; it must be one of {', '.join(_DTYPES)}")
    if not isinstance(shape, list) or len(shape) > _MAX_DIMENSIONS or not all(map(is_count, shape)):
        raise UserError(f"{name[:80]!r} has the shape {str(shape)[:80]}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(is_count, offsets)):
        raise UserError(f"{name[:80]!r} has the offsets {str(offsets)[:80]}")
    # Each count is below 2^63 and there are few, so that the exact product is small too.
    if offsets[1] - offsets[0] != math.prod(shape) * _DTYPES[dtype].itemsize:
        raise UserError(f"{name[:80]!r}: bytes {offsets[0]} to {offsets[1]} do not hold the shape {shape}")
    return *offsets, _DTYPES[dtype], shape


def is_count(value: Any) -> TypeGuard[int]:
    """Whether a value of a JSON file is an integer, 0 or more, that fits 63 bits."""
    return type(value) is int and 0 <= value < 1 << 63


def write(path: str | os.PathLike, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Writes a file for `read`; aside, and renamed when complete.

    Raises:
      UserError: the path cannot be written.
    """
    import safetensors.numpy

    text = json.dumps(header, allow_nan=False, separators=(",", ":"))
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_bytes(path, safetensors.numpy.save(arrays, metadata={"recu": text}))


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Makes a file of `data`, whole or not at all.

    Raises:
      UserError: the path cannot be written.
    """
    try:
        with replacing(path) as file:
            file.write(data)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; give another --out") from error
