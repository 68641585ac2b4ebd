"""Variables to start or to teach from: a run of ours, or a PyTorch file."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from flax.traverse_util import flatten_dict, unflatten_dict

from recu_jax import torch_import
from recu_jax.checkpoint import read_best
from recu_jax.errors import UserError, first_few
from recu_jax.recipe import Recipe
from recu_jax.train import TrainState, create_state

# What a network with 1-bit weights or activations has and one with real ones lacks.
_ONLY_IF_BINARY = ("alpha", "tau", "shift")
_LISTED = 6


def first_state(config: ml_collections.ConfigDict, recipe: Recipe, image_shape: Sequence[int]) -> TrainState:
    """The state before the first step: fresh, or with the variables of `config.init_from`.

    Raises:
      UserError: as `load` and `merge`.
    """
    state = create_state(recipe, config.seed, image_shape)
    if config.init_from is None:
        return state
    given = load(config.init_from, config.model)
    return dataclasses.replace(state, **merge(state.variables, given, config.init_from, may_lack=_ONLY_IF_BINARY))


def teacher_variables(config: ml_collections.ConfigDict, recipe: Recipe, image_shape: Sequence[int]) -> dict[str, Any]:
    """Variables of `recipe.teacher` from `config.teacher`; empty without a teacher.

    Raises:
      UserError: as `load` and `merge`.
    """
    if recipe.teacher is None:
        return {}
    image = jax.ShapeDtypeStruct((1, *image_shape), recipe.dtype)
    fresh = jax.eval_shape(recipe.teacher.init, jax.random.key(0), image)
    return merge(fresh, load(config.teacher, config.teacher_model), config.teacher)


def load(path: str, model: str) -> dict[str, Any]:
    """Variables of `model` from `path`.

    Args:
      path: the workdir of a run, whose best checkpoint is taken, or a PyTorch file, as `torch_import` reads it.
      model: as for `create_model`.

    Returns:
      `{"params": ..., "batch_stats": ...}` of NumPy arrays.

    Raises:
      UserError: there is nothing, no checkpoint, or a file that cannot be read or is of another model.
    """
    if pathlib.Path(path).is_file():
        return torch_import.load_variables(path, model)
    if not pathlib.Path(path).is_dir():
        raise UserError(f"{path} does not exist; give the workdir of a run, or a PyTorch file")
    _, record, variables = read_best(path)
    if record["config"]["model"] != model:
        raise UserError(f"{path} holds a run of model {record['config']['model']!r}; it must be {model!r}")
    return variables


def merge(
    fresh: Mapping[str, Any], given: Mapping[str, Any], path: str, may_lack: Sequence[str] = ()
) -> dict[str, Any]:
    """`given` in the place of `fresh`, in the dtypes of `fresh`.

    Args:
      fresh: `{"params": ..., "batch_stats": ...}`; shapes suffice where nothing may be lacking.
      given: the same, of another run or file.
      path: where `given` is from, for the message.
      may_lack: names of leaves, such as `alpha`, that stay fresh where `given` lacks them.

    Raises:
      UserError: other entries are missing, extra or misshapen; names the first of them.
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
