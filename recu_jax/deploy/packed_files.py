"""Saves packed models in files of safetensors (github.com/huggingface/safetensors), and loads them.

    save("model.safetensors", packed)
    packed = load("model.safetensors")              # Linen: variables for model.apply
    packed = load("model.safetensors", model)       # NNX: a copy of the model, with the variables of the file

An array's name is its path in the variables or in the NNX model, such as `params/conv/kernel_bits`. The metadata entry
`recu_packed` is the version of this layout. Nothing in a file is executed.
"""

import os
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from recu_jax import paths
from recu_jax.deploy.container import write_bytes
from recu_jax.deploy.pack import holds_packed, nnx_holds_packed, pack
from recu_jax.errors import UserError, first_few, one_line

_KEY, _FORMAT = "recu_packed", "1"


def save(path: str | os.PathLike, packed: Any) -> None:
    """Saves a packed model. An interrupted call leaves no incomplete file.

    The random streams of an NNX model are not saved.

    Args:
      path: of the new file. An existing file is replaced.
      packed: the result of `recu_jax.pack`.

    Raises:
      UserError: the model is not packed, an entry is not an array of numbers, or the path cannot be written.
    """
    import safetensors.flax

    data = safetensors.flax.save(_arrays(packed), metadata={_KEY: _FORMAT})
    write_bytes(path, data)


def load(path: str | os.PathLike, model: Any = None) -> Any:
    """Loads a file that `save` wrote. The file may be untrusted, because nothing in it is executed.

    Args:
      path: the file.
      model: needed only for the file of an NNX model: a model of the same class and sizes, with any weights. It is not
        changed.

    Returns:
      Linen: variables for `model.apply`. NNX: a packed copy of `model`, in evaluation mode.

    Raises:
      UserError: the file is missing, damaged or of another layout, or does not fit the model; or the file holds an NNX
        model, and `model` is None.
    """
    arrays = _read(path)
    if model is not None and not isinstance(model, nn.Module):
        return _into_nnx(path, arrays, model)
    if "params" not in {name.split("/")[0] for name in arrays}:
        raise UserError(f"{path} holds an NNX model; give load a model of its class, as in load({str(path)!r}, model)")
    return unflatten_dict({tuple(map(_decoded, name.split("/"))): array for name, array in arrays.items()})


def _encoded(part: Any) -> str:
    """Escapes `/`, which Flax allows in names, and the escape character `%`."""
    return str(part).replace("%", "%25").replace("/", "%2F")


def _decoded(part: str) -> str:
    return part.replace("%2F", "/").replace("%25", "%")


def _arrays(packed):
    if isinstance(packed, Mapping):
        if not holds_packed(packed):
            raise UserError("save: the variables are not packed; give what recu_jax.pack returned")
        flat = flatten_dict(packed)
    else:
        flat = {path: variable[...] for path, variable in _saved_state(packed).items()}
    arrays = {}
    for path, leaf in flat.items():
        name, leaf = "/".join(map(_encoded, path)), nn.meta.unbox(leaf)
        if not hasattr(leaf, "dtype") or jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended):
            raise UserError(
                f"save: {name} is {type(leaf).__name__}, and the file holds arrays of numbers; leave it out"
            )
        arrays[name] = jnp.asarray(leaf)
    return arrays


def _saved_state(model):
    """Returns the variables of a packed NNX model by path, without random streams."""
    from flax import nnx

    if not nnx_holds_packed(model):
        raise UserError(f"save: {type(model).__name__} is not packed; give what recu_jax.pack returned")
    state = nnx.state(model, nnx.filterlib.Not(nnx.RngState))
    return dict(nnx.to_flat_state(state))


def _read(path):
    import safetensors

    path = paths.local(path)
    way_out = "give a file that recu_jax.save wrote"
    try:
        with safetensors.safe_open(path, framework="flax") as file:
            found = (file.metadata() or {}).get(_KEY)
            if found == _FORMAT:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or one_line(error, 120)}; {way_out}") from error
    except Exception as error:  # safetensors raises several types for damaged bytes
        raise UserError(f"{path} is no whole file of safetensors: {one_line(error, 120)}; {way_out}") from error
    if found is None:
        raise UserError(
            f"{path} is a file of safetensors of another layout; {way_out}, or for a file of `recu export` use "
            "recu_jax.deploy.load"
        )
    raise UserError(f"{path} has the format {found[:20]!r}; this version of recu_jax knows {_FORMAT}")


def _into_nnx(path, arrays, model):
    from flax import nnx

    packed = nnx.clone(model) if nnx_holds_packed(model) else pack(model)
    variables = {"/".join(map(_encoded, parts)): variable for parts, variable in _saved_state(packed).items()}
    shapes = {name: jnp.shape(variable[...]) for name, variable in variables.items()}
    wrong = [
        name for name in sorted({*shapes, *arrays}) if name not in arrays or np.shape(arrays[name]) != shapes.get(name)
    ]
    if wrong:
        raise UserError(
            f"{path} does not fit {type(model).__name__}: {first_few(wrong, 3)}; give load a model of the class and "
            "the sizes that were saved"
        )
    for name, variable in variables.items():
        variable[...] = arrays[name]
    return packed
