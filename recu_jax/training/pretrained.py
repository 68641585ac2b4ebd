"""Reads variables from another run or a PyTorch file, to initialize a network or to serve as the teacher.

A network can also start from a trained network that comes with recu_jax.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from flax.traverse_util import flatten_dict, unflatten_dict

from recu_jax import networks, paths
from recu_jax.errors import UserError, first_few
from recu_jax.models import FULL_PRECISION, LAST_LAYERS, num_classes_of
from recu_jax.models.parts import NONLINEARITIES
from recu_jax.pytorch import files
from recu_jax.pytorch.names import common_prefix, models_that_fit
from recu_jax.pytorch.variables import conv_of, variables_of
from recu_jax.training import bucket, distributed
from recu_jax.training.checkpoint import read_best, save_imported
from recu_jax.training.progress import say
from recu_jax.training.recipe import Recipe
from recu_jax.training.step import TrainState, create_state, state_shapes

# Parameters that only networks with 1-bit weights or activations have.
_ONLY_IF_BINARY = ("alpha", "tau", "shift", "spread")
_LISTED = 6
# What a config without a nonlinearity has.
_MODELS_OWN = NONLINEARITIES[0]


def read_init_from(
    config: ml_collections.ConfigDict, recipe: Recipe, image_shape: Sequence[int]
) -> dict[str, Any] | None:
    """Reads the variables of `config.init_from`, and checks that they fit the model. Returns None without the field.

    Raises:
      UserError: as in `load_variables`, `merge` and `optimizers.frozen_mask`; `config.fresh_head` is False and the
        source has another number of classes; or `config.fresh_head` is True and no layer of the model has a name in
        `LAST_LAYERS`.
    """
    if config.init_from is None:
        return None
    given, _ = _given(config.init_from, config.model)
    fresh = state_shapes(recipe, image_shape)
    theirs, ours = num_classes_of(given["params"]), num_classes_of(fresh.params)
    if config.fresh_head and ours is None:
        raise UserError(
            f"config.fresh_head is True and the model has no layer called {' or '.join(LAST_LAYERS)}; name its last "
            "layer so"
        )
    if theirs != ours and not config.fresh_head:
        raise UserError(
            f"{config.init_from} has {theirs} classes and {config.dataset} has {ours}; --config.fresh_head=True starts "
            "the last layer afresh, and --config.freeze='layer*' keeps layers of these names as they are"
        )
    check_fit(fresh.variables, given, config.init_from, _ONLY_IF_BINARY, _afresh(config))
    if distributed.is_main():
        but = f", {' or '.join(LAST_LAYERS)} afresh" if config.fresh_head else ""
        say(f"starting from the variables of {config.init_from}{but}")
    return given


def first_state(
    config: ml_collections.ConfigDict, recipe: Recipe, image_shape: Sequence[int], given: Mapping[str, Any] | None
) -> TrainState:
    """Makes the state before the first step: newly initialized, with the variables `given` if there are any.

    Args:
      config: of the run.
      recipe: of the run.
      image_shape: (height, width, channels).
      given: the result of `read_init_from`; None for a newly initialized state.

    Raises:
      UserError: as in `optimizers.frozen_mask`.
    """
    state = create_state(recipe, config.seed, image_shape)
    if given is None:
        return state
    return state.starting_from(merge(state.variables, given, config.init_from, _ONLY_IF_BINARY, _afresh(config)))


def _afresh(config):
    return LAST_LAYERS if config.fresh_head else ()


def teacher_variables(config: ml_collections.ConfigDict, recipe: Recipe, image_shape: Sequence[int]) -> dict[str, Any]:
    """Reads the variables of `recipe.teacher` from `config.teacher`. Returns an empty dict without a teacher.

    Raises:
      UserError: as in `load_variables` and `merge`; `config.teacher` is the name of a network that comes with
        recu_jax; or it is a run that is not full precision, or has another nonlinearity than
        `config.teacher_nonlinearity`.
    """
    if recipe.teacher is None:
        return {}
    if networks.is_name(config.teacher):
        raise UserError(
            f"config.teacher is {config.teacher!r}, a 1-bit network, and a teacher is full precision; give the workdir "
            "of a run with --config.conv=float, or a PyTorch file"
        )
    image = jax.ShapeDtypeStruct((1, *image_shape), recipe.dtype)
    fresh = jax.eval_shape(recipe.teacher.init, jax.random.key(0), image)
    variables, theirs = _given(config.teacher, config.teacher_model)
    if theirs is not None:
        _check_teacher(config, theirs)
    return merge(fresh, variables, config.teacher)


def _check_teacher(config, theirs):
    """Checks what `merge` cannot see: binary activations have no variables, and neither have hardtanh and identity."""
    if theirs["conv"] != "float":
        raise UserError(
            f"config.teacher is {config.teacher!r}, a run with conv {theirs['conv']!r}, and a teacher is full "
            "precision; give the workdir of a run with --config.conv=float"
        )
    has = theirs.get("nonlinearity") or _MODELS_OWN
    if has != (config.teacher_nonlinearity or _MODELS_OWN):
        raise UserError(
            f"config.teacher_nonlinearity is {config.teacher_nonlinearity!r}, and {config.teacher} holds a run with "
            f"nonlinearity {has!r}; use --config.teacher_nonlinearity={has}"
        )


def load_variables(path: str | pathlib.Path, model: str | None = None, conv: str | None = None) -> dict[str, Any]:
    """Reads the variables of a trained network, for your own training or inference.

        variables = recu_jax.load_variables("runs/digits")
        logits = recu_jax.create_model("digits_resnet8").apply(variables, x)

    Args:
      path: the workdir of a run, a file of PyTorch or safetensors, or one of `recu_jax.networks.NAMES`. From a workdir
        the best checkpoint is read. A file is read as by `pytorch.load_variables`.
      model: as for `create_model`. None takes the model of the run, or the only model that fits the file.
      conv: for a file: "binary", or "float" for real weights. None means "binary" if the file has an `alpha`, and
        "float" otherwise. Unused for a workdir or a name.

    Returns:
      `{"params": ..., "batch_stats": ...}` of NumPy arrays.

    Raises:
      UserError: `path` does not exist, holds no checkpoint, cannot be read, or is of another model; or `model` is None
        and the file fits no model or several.
    """
    return _read(path, model, conv)[0]


def _given(path: str, model: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Reads variables as `load_variables` does. If their names had a common prefix, prints that it was removed.

    Returns:
      The variables; and the config of their run, or None if they do not come from a run.
    """
    variables, prefix, config = _read(path, model)
    if prefix and distributed.is_main():
        say(f"{path}: names without their prefix {prefix!r}")
    return variables, config


def _read(path, model=None, conv=None):
    if networks.is_name(path):
        name = str(path)
        if model not in (None, name):
            raise UserError(f"{name} is a trained network of model {name!r}; it must be of {model!r}")
        return networks.variables(name), "", None
    path = bucket.fetched(paths.of_run(path, "the path"))
    if pathlib.Path(path).is_file():
        file = files.read(path)
        conv = conv or conv_of(file)
        variables = variables_of(path, file, model or _only_fit(path, file, conv), conv)
        return variables, common_prefix(file.state_dict), None
    if not pathlib.Path(path).is_dir():
        raise UserError(
            f"{path} does not exist; give the workdir of a run, a PyTorch file, or one of the trained networks "
            f"{', '.join(networks.NAMES)}"
        )
    _, record, variables = read_best(path)
    if model is not None and record["config"]["model"] != model:
        raise UserError(f"{path} holds a run of model {record['config']['model']!r}; it must be {model!r}")
    return variables, "", record["config"]


def _only_fit(path, file, conv):
    fits = models_that_fit(file.state_dict, conv)
    if len(fits) != 1:
        which = f"fits {len(fits)} models: {', '.join(fits)}" if fits else "fits no model of this library"
        raise UserError(f"{path} {which}; give the name of its model")
    return fits[0]


def merge(
    fresh: Mapping[str, Any],
    given: Mapping[str, Any],
    path: str,
    may_lack: Sequence[str] = (),
    afresh: Sequence[str] = (),
) -> dict[str, Any]:
    """Returns the variables `given`, cast to the dtypes of `fresh`.

    Args:
      fresh: `{"params": ..., "batch_stats": ...}`; if `may_lack` and `afresh` are empty, shapes and dtypes
        are enough.
      given: variables of another run or file, in the same form.
      path: source of `given`, for the error message.
      may_lack: names of leaves, for example `alpha`. If `given` lacks such a leaf, the result has the leaf of `fresh`.
      afresh: names of top-level modules, for example `linear`. The result has the leaves of `fresh` in these modules.

    Raises:
      UserError: as in `check_fit`.
    """
    check_fit(fresh, given, path, may_lack, afresh)
    have = _without(given, afresh)
    want = flatten_dict(dict(fresh))
    merged = unflatten_dict({k: jnp.asarray(have[k], v.dtype) if k in have else v for k, v in want.items()})
    return {k: merged.get(k, {}) for k in ("params", "batch_stats")}


def check_fit(
    fresh: Mapping[str, Any],
    given: Mapping[str, Any],
    path: str,
    may_lack: Sequence[str] = (),
    afresh: Sequence[str] = (),
) -> None:
    """Checks that `merge` can take the variables `given`. The arguments are those of `merge`.

    Raises:
      UserError: `given` lacks a leaf that it must have, has a leaf that `fresh` lacks, or has a leaf of another shape.
        The message lists the first few of these leaves.
    """
    want, have = flatten_dict(dict(fresh)), _without(given, afresh)
    problems = [
        f"{_name(k)} is missing" for k in want if k not in have and k[-1] not in may_lack and k[1] not in afresh
    ]
    problems += [f"{_name(k)} is extra" for k in have if k not in want]
    problems += [
        f"{_name(k)} is {tuple(have[k].shape)} and should be {tuple(want[k].shape)}"
        for k in want
        if k in have and have[k].shape != want[k].shape
    ]
    if problems:
        raise UserError(
            f"{path} does not fit the model: {first_few(problems, _LISTED, ', ')}; it must be of the same model, "
            "conv, alpha, widths and number of classes"
        )


def _without(variables, modules):
    """Returns the variables by path, without those of the top-level modules `modules`."""
    return {path: value for path, value in flatten_dict(dict(variables)).items() if path[1] not in modules}


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

    `path`, `name` and `conv` are as in `pytorch.load_variables`, but `conv` cannot be None. `key` is as in
    `pytorch.files.read`.

    Returns:
      The record: `model`, `conv`, `file`, `key`, `prefix`, `epoch` and `best_prec1`. The last two are None if the file
      lacks them. The result also has `parameters`, the number of parameters.

    Raises:
      UserError: as in `pytorch.load_variables`; or `workdir` already holds checkpoints or cannot be written to. The
        workdir is then left unchanged.
    """
    workdir = paths.local(workdir, "the workdir")
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
