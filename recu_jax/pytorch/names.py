"""Converts between our variables and the official PyTorch state_dicts: names, layouts, shapes. Needs no PyTorch.

| ours                                    | official                              | layout                 |
|-----------------------------------------|---------------------------------------|------------------------|
| params/layer1_0/conv1/kernel            | layer1.0.conv1.weight                 | HWIO -> OIHW           |
| params/layer1_0/conv1/alpha             | layer1.0.conv1.alpha                  | (C,) -> (C, 1, 1)      |
| params/layer2_0/downsample_0/kernel     | layer2.0.downsample.0.weight          | HWIO -> OIHW           |
| params/layer1_0/move0/bias              | layer1.0.move0.bias                   | (C,) -> (1, C, 1, 1)   |
| params/layer1_0/nonlinear/slope         | layer1.0.nonlinear.weight             |                        |
| params/bn1/scale, bias                  | bn1.weight, bias                      |                        |
| batch_stats/bn1/mean, var               | bn1.running_mean, running_var         |                        |
| params/linear/kernel, bias              | linear.weight, bias                   | (in, out) -> (out, in) |
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from recu_jax.errors import UserError
from recu_jax.layers import BinaryConv, Conv
from recu_jax.models import FULL_PRECISION, MODELS, create_model

Path = tuple[str, ...]
# "binary" networks have an alpha for every 1-bit convolution. "float" networks have real weights and no alpha.
CONVS = ("binary", "float")

_LEAVES = {"kernel": "weight", "scale": "weight", "slope": "weight", "mean": "running_mean", "var": "running_var"}
# Buffers without a counterpart here: step counts of batch norm and of averaged weights, and the tau of the last epoch.
_IGNORED = re.compile(r"(^|\.)(num_batches_tracked|n_averaged|tau)$")
# Prefixes that DataParallel and torch.compile add to every name.
_WRAPPERS = re.compile(r"^((module|_orig_mod)\.)+")


def _torch_name(path: Path) -> str:
    *modules, leaf = path[1:]
    modules = [re.sub(r"_(\d+)$", r".\1", m) for m in modules]
    return ".".join([*modules, _LEAVES.get(leaf, leaf)])


def _is_move(path: Path) -> bool:
    return path[-1] == "bias" and re.fullmatch(r"move\d", path[-2]) is not None


def _to_torch_layout(path: Path, value: np.ndarray) -> np.ndarray:
    if path[-1] == "kernel":
        return np.moveaxis(value, (-1, -2), (0, 1))
    if _is_move(path):
        return value.reshape(1, -1, 1, 1)
    return value.reshape(-1, 1, 1) if path[-1] == "alpha" else value


def _from_torch_layout(path: Path, value: np.ndarray) -> np.ndarray:
    if path[-1] == "kernel":
        return np.moveaxis(value, (0, 1), (-1, -2))
    return value.reshape(-1) if path[-1] == "alpha" or _is_move(path) else value


@functools.cache
def _variables(name: str, conv: str, num_classes: int, in_channels: int) -> dict[Path, tuple[int, ...]]:
    """Returns path and shape of every variable of a model. The modules are in the order of their calls."""
    layer = BinaryConv if conv == "binary" and name not in FULL_PRECISION else Conv
    model = create_model(name, num_classes, conv=layer)
    shapes = {}

    def init(x):
        # Recorded within the trace, because the result of eval_shape is sorted and loses the order of the calls.
        shapes.update({path: leaf.shape for path, leaf in flatten_dict(model.init(jax.random.key(0), x)).items()})

    # All models accept images of 32x32. A larger image changes only the shape of VGG's linear layer.
    jax.eval_shape(init, jax.ShapeDtypeStruct((1, 32, 32, in_channels), jnp.float32))
    order = list(dict.fromkeys(path[1:-1] for path in shapes))
    return dict(sorted(shapes.items(), key=lambda item: order.index(item[0][1:-1])))


def _paths_and_shapes(name: str, conv: str, state_dict: Mapping[str, np.ndarray]) -> dict[str, tuple[Path, tuple]]:
    """Maps the official name of each variable to its path here and its official shape.

    The shapes of `state_dict` give the number of classes and of input channels.
    """
    weights = [v for k, v in state_dict.items() if k.endswith("weight")]
    classes = next((len(v) for v in reversed(weights) if v.ndim == 2), 10)
    channels = next((v.shape[1] for v in weights if v.ndim == 4), 3)
    return {
        _torch_name(path): (path, _to_torch_layout(path, np.broadcast_to(np.float32(0), shape)).shape)
        for path, shape in _variables(name, conv, classes, channels).items()
    }


def without_wrappers(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns `state_dict` as arrays, without the prefixes of wrappers and without ignored buffers.

    Removes the `common_prefix` of all names, then `module.` and `_orig_mod.` from each name that begins with them.
    """
    prefix = common_prefix(state_dict)
    given = {_WRAPPERS.sub("", k.removeprefix(prefix)): np.asarray(v) for k, v in state_dict.items()}
    return {k: v for k, v in given.items() if not _IGNORED.search(k)}


def common_prefix(state_dict: Mapping[str, Any]) -> str:
    """Returns the prefix that all names share, such as `module.` or `model.backbone.`, or "" if they share none.

    A prefix names the modules around a network. The names of ignored buffers do not matter: `n_averaged` of an
    `AveragedModel` has no prefix.
    """
    prefix, names = "", [name for name in state_dict if not _IGNORED.search(name)]
    # Every name keeps at least a module and a leaf, as in `linear.weight`.
    while names and all(name.count(".") > 1 for name in names) and len({name.split(".")[0] for name in names}) == 1:
        prefix += names[0].split(".")[0] + "."
        names = [name.partition(".")[2] for name in names]
    return prefix


def differences(name: str, state_dict: Mapping[str, Any], conv: str = "binary") -> list[str]:
    """Lists the missing, extra and misshapen entries of a state_dict for model `name`; empty if there are none."""
    given = without_wrappers(state_dict)
    expected = {k: shape for k, (_, shape) in _paths_and_shapes(name, conv, given).items()}
    return [
        *(f"missing {k} {shape}" for k, shape in expected.items() if k not in given),
        *(f"extra {k} {v.shape}" for k, v in given.items() if k not in expected),
        *(
            f"misshapen {k} {given[k].shape}, should be {shape}"
            for k, shape in expected.items()
            if k in given and given[k].shape != shape
        ),
    ]


def models_that_fit(state_dict: Mapping[str, Any], conv: str = "binary") -> list[str]:
    """Lists the models whose variables have the names and shapes of `state_dict`."""
    return [name for name in MODELS if not differences(name, state_dict, conv)]


def from_torch(name: str, state_dict: Mapping[str, Any], conv: str = "binary") -> dict[str, Any]:
    """Converts an official state_dict to variables of our model `name`.

    Args:
      name: name of the model, as for `create_model`. The shape of the last linear layer gives the number of classes.
      state_dict: arrays (or CPU tensors) by official name. Names may have the prefixes of DataParallel (`module.`) and
        torch.compile (`_orig_mod.`), or a common prefix. The buffers `num_batches_tracked`, `n_averaged` and `tau` are
        left out.
      conv: "binary", or "float" for the model with real weights, which has no `alpha`.

    Returns:
      `{"params": ..., "batch_stats": ...}` of NumPy arrays in the dtypes of `state_dict`.

    Raises:
      UserError: entries are missing, extra or misshapen. The message lists all of them.
    """
    problems = differences(name, state_dict, conv)
    if problems:
        raise UserError(f"state_dict does not fit model {name!r}: " + "; ".join(problems))
    given = without_wrappers(state_dict)
    paths = _paths_and_shapes(name, conv, given)
    return unflatten_dict({path: _from_torch_layout(path, given[k]) for k, (path, _) in paths.items()})


def to_torch(name: str, variables: Mapping[str, Any], conv: str = "binary") -> dict[str, np.ndarray]:
    """Converts variables of our model `name` to the official state_dict. This is the inverse of `from_torch`.

    Args:
      name: name of the model.
      variables: `{"params": ..., "batch_stats": ...}`.
      conv: "binary", or "float" for the model with real weights.

    Returns:
      NumPy arrays by official name, in the order of the model's modules.

    Raises:
      UserError: the variables are not those of model `name`.
    """
    flat = flatten_dict({c: variables[c] for c in ("params", "batch_stats")})
    result = {
        _torch_name(path): np.ascontiguousarray(_to_torch_layout(path, np.asarray(v))) for path, v in flat.items()
    }
    from_torch(name, result, conv)
    return {k: result[k] for k in _paths_and_shapes(name, conv, result)}
