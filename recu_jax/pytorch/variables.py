"""Loads variables from PyTorch files, and saves them to PyTorch files.

A file is a checkpoint of the authors' code (`*.pth.tar`), a bare state_dict, a dict that holds a state_dict under any
key, a weight file of torchvision, or a file of safetensors.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from recu_jax.errors import UserError, first_few, unknown
from recu_jax.models import FULL_PRECISION, MODELS
from recu_jax.pytorch import files as torch_files
from recu_jax.pytorch.names import CONVS, differences, from_torch, models_that_fit, to_torch

__all__ = ["from_torch", "load_variables", "save_torch", "to_torch", "variables_of"]

_LISTED = 3  # number of differences that an error message lists; all of them would fill the screen


def load_variables(path: str | pathlib.Path, name: str, conv: str | None = None) -> dict[str, Any]:
    """Loads variables of model `name` from a PyTorch file.

    The running variances are not converted. PyTorch's are unbiased and ours are biased: for n values per channel,
    PyTorch's are n / (n - 1) times ours.

    Args:
      path: a file that `recu_jax.pytorch.files.read` reads. A prefix that all names have, such as `backbone.`, is left
        out.
      name: name of the model, as for `create_model`. The shape of the last linear layer gives the number of classes.
      conv: "binary", or "float" for the model with real weights. None means "binary" if the file has an `alpha`, and
        "float" otherwise.

    Returns:
      `{"params": ..., "batch_stats": ...}` of NumPy arrays, float32, or float64 where the file has float64.

    Raises:
      UserError: `name` is unknown, the file cannot be read, it is of another model (the message says which models fit),
        or its values are not all finite floats.
    """
    file = torch_files.read(path)
    return variables_of(path, file, name, conv or conv_of(file))


def conv_of(file: torch_files.TorchFile) -> str:
    """Returns "binary" if the file has an `alpha`, otherwise "float"."""
    return "binary" if any(k.endswith("alpha") for k in file.state_dict) else "float"


def variables_of(path: str | pathlib.Path, file: Any, name: str, conv: str) -> dict[str, Any]:
    """Does the same as `load_variables`, with `file`, the result of `pytorch.files.read(path)`. `conv` is not None."""
    if name not in MODELS:
        raise unknown("model", name, sorted(MODELS))
    problems = differences(name, file.state_dict, conv)
    if not problems:
        variables = from_torch(name, file.state_dict, conv)
        for entry, array in flatten_dict(variables, sep="/").items():
            if not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
                raise UserError(
                    f"{path}: {entry} must be floats, all of them finite; the file is damaged or its run diverged"
                )
        return variables
    fits = [
        m if c == "binary" else f"{m} with conv float"
        for c in CONVS
        for m in models_that_fit(file.state_dict, c)
        if c == "binary" or m not in FULL_PRECISION
    ]
    way_out = f"it fits {' or '.join(fits)}" if fits else "it fits no model of this library"
    raise UserError(f"{path} is not a state_dict of model {name!r}: {first_few(problems, _LISTED)}; {way_out}")


def save_torch(
    path: str | pathlib.Path,
    name: str,
    variables: Mapping[str, Any],
    epoch: int = 0,
    best_top1: float = 0.0,
    tau: float = 1.0,
    steps: int = 0,
    conv: str = "binary",
) -> None:
    """Writes a checkpoint that the authors' code loads with `load_state_dict(strict=True)`.

    The file holds a dict with `epoch`, `model`, `state_dict` and `best_prec1`. It has no `optimizer` and no
    `lr_scheduler`, so training from this file starts with zero momentum. The running variances are not converted. They
    are biased: for n values per channel, PyTorch's own would be n / (n - 1) times as large.

    Args:
      path: file to write; an existing file is replaced.
      name: name of the model.
      variables: variables of the model, `{"params": ..., "batch_stats": ...}`.
      epoch: number of epochs done.
      best_top1: best top-1 accuracy, in percent.
      tau: tau of the last epoch, for the buffer `tau` of every binary convolution.
      steps: number of optimizer steps done, for the buffer `num_batches_tracked` of every batch norm.
      conv: "binary", or "float" for the model with real weights.

    Raises:
      UserError: PyTorch is not installed, the variables are not those of the model, or the file cannot be written.
    """
    state_dict = {}
    for key, array in to_torch(name, variables, conv).items():
        state_dict[key] = array
        module, _, leaf = key.rpartition(".")
        if leaf == "alpha":
            state_dict[f"{module}.tau"] = np.full((1,), tau, array.dtype)
        if leaf == "running_var":
            state_dict[f"{module}.num_batches_tracked"] = np.asarray(steps, np.int64)
    torch_files.write(path, {"epoch": epoch, "model": name, "state_dict": state_dict, "best_prec1": float(best_top1)})
