"""Reads and writes safetensors files (github.com/huggingface/safetensors): named arrays and a JSON header.

Files may come from strangers. Nothing in a file is executed. Sizes and offsets are checked against the file's bytes
before use. So reading takes at most 1.25 times the file's size in memory, plus a small multiple of the header's size.
`write` needs the safetensors package. Reading needs only NumPy.
"""

import json
import math
import os
import pathlib
from typing import Any, TypeGuard

import numpy as np

from recu_jax import paths
from recu_jax.atomic_write import atomic_write
from recu_jax.errors import UserError

_DTYPES = {"F32": np.dtype("<f4"), "I32": np.dtype("<i4"), "U32": np.dtype("<u4")}
_LENGTH_BYTES = 8
# The limit is far above what a network needs (imagenet_resnet34: 40 kB). A header of this size is still quick to parse.
_MAX_HEADER_BYTES = 1 << 22
_MAX_DIMENSIONS = 8


def read(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Reads the header and the arrays of a file.

    Returns:
      The JSON object under "recu" in the file's metadata, and the arrays by name. An array is float32 (finite), int32
      or uint32.

    Raises:
      UserError: the file is missing, damaged or of another format. The message is one line.
    """
    path = paths.local(path)
    try:
        data = pathlib.Path(path).read_bytes()
    except OSError as error:
        way_out = "give a file that `recu export` wrote"
        if isinstance(error, IsADirectoryError):
            way_out = f"type: recu export {path} --out=FILE, and give that file"
        raise UserError(f"{path} cannot be read: {error.strerror}; {way_out}") from error
    try:
        return parse(data)
    except UserError as error:
        raise UserError(f"{path} is damaged or no file of `recu export`: {error}") from error


def parse(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Reads the header and the arrays from the bytes of a file. Returns the same as `read`.

    Raises:
      UserError: the bytes are damaged. The message does not name the file; `read` adds its path.
    """
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
    # The format requires arrays without gaps and without overlaps.
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
    # Python's integers do not overflow, and the product stays small enough: at most 8 factors, each below 2^63.
    if offsets[1] - offsets[0] != math.prod(shape) * _DTYPES[dtype].itemsize:
        raise UserError(f"{name[:80]!r}: bytes {offsets[0]} to {offsets[1]} do not hold the shape {shape}")
    return *offsets, _DTYPES[dtype], shape


def is_count(value: Any) -> TypeGuard[int]:
    """Returns whether a value of a JSON file is an integer from 0 to 2^63 - 1."""
    return type(value) is int and 0 <= value < 1 << 63


def write(path: str | os.PathLike, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Writes a file for `read`. An interrupted write leaves no incomplete file.

    Args:
      path: of the new file. An existing file is replaced.
      header: values that JSON can hold.
      arrays: float32, int32 or uint32, by name.

    Raises:
      UserError: the path cannot be written.
    """
    import safetensors.numpy

    text = json.dumps(header, allow_nan=False, separators=(",", ":"))
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_bytes(path, safetensors.numpy.save(arrays, metadata={"recu": text}))


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Writes `data` to a file. An interrupted write leaves no incomplete file.

    Raises:
      UserError: the path cannot be written.
    """
    path = paths.local(path)
    try:
        with atomic_write(path) as file:
            file.write(data)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; give another --out") from error
