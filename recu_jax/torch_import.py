"""Between our variables and the official PyTorch state_dicts: names, layouts, shapes. NumPy arrays; no PyTorch.

| ours                                  | official                      | layout                 |
|---------------------------------------|-------------------------------|------------------------|
| params/layer1_0/conv1/kernel          | layer1.0.conv1.weight         | HWIO -> OIHW           |
| params/layer1_0/conv1/alpha           | layer1.0.conv1.alpha          | (C,) -> (C, 1, 1)      |
| params/bn1/scale, bias                | bn1.weight, bias              |                        |
| batch_stats/bn1/mean, var             | bn1.running_mean, running_var |                        |
| params/linear/kernel, bias            | linear.weight, bias           | (in, out) -> (out, in) |
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from recu_jax.errors import UserError
from recu_jax.models import create_model

_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
# Buffers of the official modules that have no counterpart here: a count, and the tau of the last epoch.
_IGNORED = re.compile(r"(^|\.)(num_batches_tracked|tau)$")


def _torch_name(path: tuple[str, ...]) -> str:
    *modules, leaf = path[1:]
    modules = [re.sub(r"_(\d+)$", r".\1", m) for m in modules]
    return ".".join([*modules, _LEAVES.get(leaf, leaf)])


def _to_torch_layout(path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
    if path[-1] == "kernel":
        return np.moveaxis(value, (-1, -2), (0, 1))
    return value.reshape(-1, 1, 1) if path[-1] == "alpha" else value


def _from_torch_layout(path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
    if path[-1] == "kernel":
        return np.moveaxis(value, (0, 1), (-1, -2))
    return value.reshape(-1) if path[-1] == "alpha" else value


def _expected(name: str, num_classes: int, in_channels: int) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Path and shape of every variable of a model."""
    model = create_model(name, num_classes)
    x = jax.ShapeDtypeStruct((1, 32, 32, in_channels), jnp.float32)
    shapes = flatten_dict(jax.eval_shape(model.init, jax.random.key(0), x))
    return {path: leaf.shape for path, leaf in shapes.items()}


def from_torch(name: str, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Variables of our model `name` from an official state_dict.

    Args:
      name: as for `create_model`; the number of classes is read off the last linear layer.
      state_dict: arrays (or CPU tensors) by official name, with or without a `module.` prefix. The buffers
        `num_batches_tracked` and `tau` are left out.

    Returns:
      `{"params": ..., "batch_stats": ...}` of NumPy arrays in the dtypes given.

    Raises:
      UserError: entries are missing, extra, or misshapen; lists all of them.
    """
    given = {k.removeprefix("module."): np.asarray(v) for k, v in state_dict.items()}
    given = {k: v for k, v in given.items() if not _IGNORED.search(k)}
    matrices = [v for k, v in given.items() if k.endswith("weight") and v.ndim == 2]
    images = [v for k, v in given.items() if k.endswith("weight") and v.ndim == 4]
    expected = _expected(name, len(matrices[-1]) if matrices else 10, images[0].shape[1] if images else 3)
    paths = {_torch_name(path): path for path in expected}
    shapes = {
        k: _to_torch_layout(path, np.broadcast_to(np.float32(0), expected[path])).shape for k, path in paths.items()
    }
    problems = [f"missing {k} {shapes[k]}" for k in shapes if k not in given]
    problems += [f"extra {k} {v.shape}" for k, v in given.items() if k not in shapes]
    problems += [
        f"misshapen {k} {given[k].shape}, should be {shapes[k]}"
        for k in shapes
        if k in given and given[k].shape != shapes[k]
    ]
    if problems:
        raise UserError(f"state_dict does not fit model {name!r}: " + "; ".join(problems))
    return unflatten_dict({path: _from_torch_layout(path, given[k]) for k, path in paths.items()})


def to_torch(name: str, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The official state_dict, as NumPy arrays by name, of our model's variables; the inverse of `from_torch`.

    Raises:
      UserError: the variables are not those of model `name`.
    """
    flat = flatten_dict({c: variables[c] for c in ("params", "batch_stats")})
    result = {
        _torch_name(path): np.ascontiguousarray(_to_torch_layout(path, np.asarray(v))) for path, v in flat.items()
    }
    from_torch(name, result)
    return result
