"""Reads files that `torch.save` wrote, and safetensors files, as NumPy arrays, and writes files as `torch.save` does.

Only this file imports PyTorch, which is optional. Safetensors files are read without PyTorch.
"""

import dataclasses
import numbers
import os
import pathlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from recu_jax import paths
from recu_jax.atomic_write import atomic_write
from recu_jax.errors import UserError, one_line, require, unknown
from recu_jax.pytorch import safetensors_files
from recu_jax.pytorch.stand_ins import STAND_INS, Ignored

# Keys of the best top-1 accuracy in percent, in files of the authors' code and of PyTorch's ImageNet example.
_BEST_KEYS = ("best_prec1", "best_acc1")
_LONGEST_NAME = 300
# The state_dict may be in a dict within a dict, down to this depth.
_DEPTH = 3
# Allowed bytes in memory per byte of the file: 4, because 8-bit floats become float32, times 4, because several entries
# may share a tensor.
_BYTES_A_BYTE = 16


@dataclasses.dataclass(frozen=True)
class TorchFile:
    """The content of a file of `torch.save` or safetensors.

    Attributes:
      state_dict: the arrays by name, such as `layer1.0.conv1.weight`.
      key: key of the state_dict in the file, such as `model` or `checkpoint/model`; None if the file itself is the
        state_dict.
      epoch: number of epochs done; None if the file lacks it.
      best_top1: best top-1 accuracy in percent; None if the file lacks it.
    """

    state_dict: dict[str, np.ndarray]
    key: str | None = None
    epoch: int | None = None
    best_top1: float | None = None


def _torch():
    require("torch", extra="torch")
    import torch

    return torch


def read(path: str | pathlib.Path, key: str | None = None) -> TorchFile:
    """Reads a file that holds a state_dict, alone or in a dict under any key, or a file of safetensors.

    Only tensors, numbers and containers are read. Nothing that a file names is imported or run. Beside the state_dict,
    the file may hold numbers of NumPy, which are read, and arrays of NumPy, `argparse.Namespace` and paths, which are
    ignored.

    Args:
      path: file to read.
      key: key of the state_dict in the file, such as `model` or `checkpoint/model`. None stands for the only
        state_dict. A nested state_dict then counts only if no entry at the top level is a state_dict. A file of
        safetensors has no keys.

    Returns:
      The content. Floating arrays are float32, except that float64 arrays stay float64. Other arrays keep their dtype.

    Raises:
      UserError: PyTorch is not installed; the file does not exist, or is no complete file of `torch.save` or of
        safetensors; it holds code; it holds no state_dict, none at `key`, or several while `key` is None; or an entry
        of the state_dict is not a dense tensor of real numbers.
    """
    path = paths.local(path)
    if safetensors_files.is_one(path):
        return TorchFile(safetensors_files.read(path))
    content = _load(_torch(), path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}; it must hold a state_dict or a dict with one")
    key = _chosen(path, content, key)
    state_dict = content if key is None else _entries(content)[key]
    for name in state_dict:
        if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME:
            kind = "a text" if isinstance(name, str) else f"a {type(name).__name__}"
            raise UserError(f"{path}: an entry's name is {kind}; it must be a text of 1 to {_LONGEST_NAME} letters")
    arrays = {k: _array(path, k, v) for k, v in state_dict.items()}
    if not arrays:
        raise UserError(f"{path} holds an empty state_dict; save model.state_dict() of a model with parameters")
    if key is None:
        return TorchFile(arrays)
    epoch = _number(content.get("epoch"))
    best = next((n for k in _BEST_KEYS if (n := _number(content.get(k))) is not None), None)
    return TorchFile(arrays, key, None if epoch is None else int(epoch), best)


def _chosen(path, content, key):
    """Returns the key of the entry that holds the weights; None if the file itself is the state_dict."""
    entries = _entries(content)
    candidates = [k for k, v in entries.items() if _has_weights(v)]
    if key is not None and key not in candidates:
        raise unknown(f"{path}: the key of the state_dict", key, candidates)
    # Without a key, a state_dict at a deeper level counts only if no entry at the top level is a state_dict. Most
    # of the deeper ones are moving averages of the weights.
    candidates = [k for k in candidates if k in content] or candidates
    if len(candidates) > 1 and key is None:
        raise UserError(
            f"{path} holds {len(candidates)} state_dicts: {', '.join(map(one_line, candidates))}; choose one with recu "
            "import-torch --key=NAME, and start from the workdir that it makes"
        )
    # Without candidates, the key `state_dict` leads to the most helpful error message.
    return key or next(iter(candidates), "state_dict" if "state_dict" in entries else None)


def _entries(content: Mapping[Any, Any]) -> dict[str, Mapping[Any, Any]]:
    """Returns the dicts within a dict by key. A dict within another one has a key such as `checkpoint/model`."""
    found: dict[str, Mapping[Any, Any]] = {}
    level, seen = [("", content)], {id(content)}
    for _ in range(_DEPTH):
        inner = []
        for above, holder in level:
            for name, value in holder.items():
                if isinstance(name, str) and isinstance(value, Mapping):
                    found[above + name] = value
                    # Even a small file may refer to the same dict from very many places. Search it only once.
                    if id(value) not in seen:
                        seen.add(id(value))
                        inner.append((f"{above}{name}/", value))
        level = inner
    return found


def _has_weights(content: Mapping[Any, Any]) -> bool:
    """Tells whether a dict holds a tensor named `weight` or `*.weight`. The states of optimizers hold none."""
    torch = _torch()
    return any(
        isinstance(k, str) and k.rpartition(".")[2] == "weight" and isinstance(v, torch.Tensor)
        for k, v in content.items()
    )


def _load(torch: Any, path: str | pathlib.Path) -> Any:
    try:
        nbytes = os.stat(path).st_size
        if zipfile.is_zipfile(path):
            _check_packing(path, nbytes)
        with warnings.catch_warnings():
            # PyTorch warns about unusual files before it refuses them.
            warnings.simplefilter("ignore")
            # A file may declare tensors of any size. The device "meta" allocates nothing, so sizes are checked there.
            with torch.serialization.safe_globals(list(STAND_INS)):
                _check_sizes(torch, path, nbytes, torch.load(path, weights_only=True, map_location="meta"))
                return torch.load(path, weights_only=True, map_location="cpu")
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; give the path of a file that torch.save wrote") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; give a file that torch.save wrote") from error
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\w[\w.]*)", str(error))
        what = f"carries code, {named[1]}," if named else "is a damaged file or a pickle with more than tensors,"
        raise UserError(
            f"{path} {what} and is not loaded: only tensors, numbers and containers are; in the program that wrote it, "
            "save model.state_dict() alone"
        ) from error
    except Exception as error:  # PyTorch raises many types of errors for damaged bytes
        raise UserError(
            f"{path} is no whole file of torch.save: it is cut off, damaged or of another kind; fetch or save it again"
        ) from error


def _check_packing(path, nbytes):
    """Raises UserError if a file is compressed: it could unpack to any size. torch.save does not compress."""
    with zipfile.ZipFile(path) as file:
        if sum(entry.file_size for entry in file.infolist()) > nbytes:
            raise UserError(f"{path} has {nbytes} bytes and unpacks to more; save it again with torch.save")


def _check_sizes(torch, path, nbytes, content):
    """Raises UserError if the tensors need too much memory for the size of the file.

    Each number counts as 4 bytes or more. A tensor that several entries share counts once per entry, because each entry
    becomes an array of its own.
    """
    rest, seen, total = [content], set(), 0
    while rest:
        value = rest.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Mapping):
            total += sum(_nbytes(torch, v) for v in value.values())
            rest += (v for v in value.values() if not isinstance(v, torch.Tensor))
        elif isinstance(value, list | tuple):
            rest += value
        else:
            total += _nbytes(torch, value)
    if total > _BYTES_A_BYTE * nbytes:
        raise UserError(
            f"{path} has {nbytes} bytes and declares tensors of {total} bytes; it is damaged, or its tensors are views "
            "of few numbers: save contiguous tensors"
        )


def _nbytes(torch, value):
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
        return 0
    return value.numel() * max(value.element_size(), 4)


def _array(path: str | pathlib.Path, name: Any, value: Any) -> np.ndarray:
    torch = _torch()
    if not isinstance(value, torch.Tensor):
        kind = "an array or object of NumPy or Python" if isinstance(value, Ignored) else f"a {type(value).__name__}"
        raise UserError(
            f"{path}: entry {name!r} is {kind}, not a tensor; a state_dict holds tensors alone, as "
            "model.state_dict() gives them"
        )
    if 0 in value.shape:
        raise UserError(f"{path}: entry {name!r} is of shape {tuple(value.shape)}, without numbers; save it again")
    plain = value.layout == torch.strided and value.device.type == "cpu"
    if plain and not value.is_quantized and not value.is_complex():
        value = value.detach()
        try:
            return (value.float() if value.is_floating_point() and value.dtype != torch.float64 else value).numpy()
        except (RuntimeError, TypeError):  # dtypes that NumPy does not have
            pass
    raise UserError(
        f"{path}: entry {name!r} is a tensor without plain real numbers (sparse, quantized, complex or on 'meta'); "
        "save dense tensors of floats"
    )


def _number(value: Any) -> float | None:
    """Converts a number, or a tensor of one element, to a float. Returns None for NaN, infinity and anything else."""
    if hasattr(value, "numel"):
        try:
            value = value.item()
        except (RuntimeError, ValueError):  # a tensor of several elements, or a sparse one
            return None
    return float(value) if isinstance(value, numbers.Real) and np.isfinite(float(value)) else None


def write(path: str | pathlib.Path, file: Mapping[str, Any]) -> None:
    """Writes a dict with `torch.save`. The arrays of its entry `state_dict` become tensors.

    If writing fails, an existing file stays unchanged.

    Args:
      path: file to write.
      file: content, with an entry `state_dict`.

    Raises:
      UserError: PyTorch is not installed, or the file cannot be written.
    """
    torch, path = _torch(), paths.local(path)
    # A copy, because arrays from JAX are read-only.
    tensors = {k: torch.from_numpy(np.array(v)) for k, v in file["state_dict"].items()}
    try:
        with atomic_write(path) as opened:
            torch.save({**file, "state_dict": tensors}, opened)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; give a path in a folder that exists") from error
