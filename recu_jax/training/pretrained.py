"""Variables from another run or a PyTorch file, to initialize a network or to serve as the teacher."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from flax.traverse_util import flatten_dict, unflatten_dict

from recu_jax.errors import UserError, first_few
from recu_jax.models import FULL_PRECISION
from recu_jax.pytorch import files
from recu_jax.pytorch.names import common_prefix
from recu_jax.pytorch.variables import load_variables, variables_of
from recu_jax.training.checkpoint import read_best, save_imported
from recu_jax.training.recipe import Recipe
from recu_jax.training.step import TrainState, create_state

# Parameters that only networks with 1-bit weights or activations have.
_ONLY_IF_BINARY = ("alpha", "tau", "shift")
_LISTED = 6


def first_state(config: ml_collections.ConfigDict, recipe: Recipe, image_shape: Sequence[int]) -> TrainState:
    """The state before the first step: newly initialized, or with the variables of `config.init_from`.

    Raises:
      UserError: as `load` and `merge`.
    """
    state = create_state(recipe, config.seed, image_shape)
    if config.init_from is None:
        return state
    given = load(config.init_from, config.model)
    return dataclasses.replace(state, **merge(state.variables, given, config.init_from, may_lack=_ONLY_IF_BINARY))


def teacher_variables(config: ml_collections.ConfigDict, recipe: Recipe, image_shape: Sequence[int]) -> dict[str, Any]:
    """Reads the variables of `recipe.teacher` from `config.teacher`; empty without a teacher.

    Raises:
      UserError: as `load` and `merge`.
    """
    if recipe.teacher is None:
        return {}
    image = jax.ShapeDtypeStruct((1, *image_shape), recipe.dtype)
    fresh = jax.eval_shape(recipe.teacher.init, jax.random.key(0), image)
    return merge(fresh, load(config.teacher, config.teacher_model), config.teacher)


def load(path: str, model: str) -> dict[str, Any]:
    """Reads the variables of `model` from `path`.

    Args:
      path: the workdir of a run (its best checkpoint is read), or a PyTorch file (`pytorch.load_variables`).
      model: as for `create_model`.

    Returns:
      `{"params": ..., "batch_stats": ...}` of NumPy arrays.

    Raises:
      UserError: `path` does not exist, holds no checkpoint, cannot be read, or is of another model.
    """
    if pathlib.Path(path).is_file():
        return load_variables(path, model)
    if not pathlib.Path(path).is_dir():
        raise UserError(f"{path} does not exist; give the workdir of a run, or a PyTorch file")
    _, record, variables = read_best(path)
    if record["config"]["model"] != model:
        raise UserError(f"{path} holds a run of model {record['config']['model']!r}; it must be {model!r}")
    return variables


def merge(
    fresh: Mapping[str, Any], given: Mapping[str, Any], path: str, may_lack: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns the variables `given`, cast to the dtypes of `fresh`.

    Args:
      fresh: `{"params": ..., "batch_stats": ...}`; if `may_lack` is empty, shapes and dtypes are enough.
      given: variables of another run or file, in the same form.
      path: source of `given`, for the error message.
      may_lack: names of leaves, for example `alpha`. If `given` lacks such a leaf, the result has that of `fresh`.

    Raises:
      UserError: `given` lacks other leaves, has extra ones, or has other shapes. The message lists the first few.
    """
    want, have = flatten_dict(dict(fresh)), flatten_dict(dict(given))
    problems = [f"{_name(k)} is missing" for k in want if k not in have and k[-1] not in may_lack]
    problems += [f"{_name(k)} is extra" for k in have if k not in want]
    problems += [
        f"{_name(k)} is {tuple(have[k].shape)} and should be {tuple(want[k].shape)}"
        for k in want
        if k in have and have[k].shape != want[k].shape
    ]
    if problems:
        raise UserError(
            f"{path} does not fit the model: {first_few(problems, _LISTED, ', ')}; it must be of the same model, "
            "widths and number of classes"
        )
    merged = unflatten_dict({k: jnp.asarray(have[k], v.dtype) if k in have else v for k, v in want.items()})
    return {k: merged.get(k, {}) for k in ("params", "batch_stats")}


def _name(path: tuple[str, ...]) -> str:
    return "/".join(path)


def import_torch_file(
    path: str | pathlib.Path,
    name: str,
    workdir: str | pathlib.Path,
    conv: str = "binary",
    key: str | None = None,
) -> dict[str, Any]:
    """Makes `workdir` from a PyTorch file: one checkpoint of step 0, with the variables and a record of their source.

    The other arguments are those of `pytorch.load_variables` and `pytorch.files.read`.

    Returns:
      The record: `model`, `conv`, `file`, `key`, `prefix`, `epoch` and `best_prec1` (None if the file lacks them), and
      `parameters`, their count.

    Raises:
      UserError: as `load_variables`; or `workdir` already holds checkpoints or cannot be written to. It is then left
        unchanged.
    """
    file = files.read(path, key)
    variables = variables_of(path, file, name, conv)
    conv = "float" if name in FULL_PRECISION else conv
    imported = {
        "model": name,
        "conv": conv,
        "file": pathlib.Path(path).name,
        "key": file.key,
        "prefix": common_prefix(file.state_dict),
        "epoch": file.epoch,
        "best_prec1": file.best_top1,
    }
    save_imported(workdir, variables, imported)
    return {**imported, "parameters": sum(a.size for a in flatten_dict(variables["params"]).values())}
