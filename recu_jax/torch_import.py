"""PyTorch files to variables and back, and the command that makes a workdir of one:

    python -m recu_jax.torch_import FILE --model=NAME --workdir=DIR [--conv=float]

FILE is a checkpoint of the authors' code (`*.pth.tar`), a bare state_dict, or a weight file of torchvision. The
workdir is evaluated with `python -m recu_jax.main --mode=eval` and the same model, and others start from it.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from recu_jax import torch_files
from recu_jax.command_line import ArgumentParser, run
from recu_jax.errors import UserError, first_few, unknown
from recu_jax.models import FULL_PRECISION, MODELS
from recu_jax.torch_names import CONVS, differences, from_torch, models_that_fit, to_torch

__all__ = ["from_torch", "import_file", "load_variables", "save_torch", "to_torch"]

_LISTED = 3  # differences that an error names; all of them would fill the screen


def load_variables(path: str | pathlib.Path, name: str, conv: str | None = None) -> dict[str, Any]:
    """Variables of model `name` from a PyTorch file.

    The running variances are taken as they are, unbiased, where ours are biased: of n values per channel they are
    n / (n - 1) times ours.

    Args:
      path: a file that `recu_jax.torch_files.read` reads.
      name: as for `create_model`; the number of classes is read off the last linear layer.
      conv: "float" for the twin with real weights, whose file has no `alpha`; None goes by the file.

    Returns:
      `{"params": ..., "batch_stats": ...}` of NumPy arrays, float32, or float64 where the file has that.

    Raises:
      UserError: the file cannot be read, or is of another model; says which.
    """
    file = torch_files.read(path)
    if conv is None:
        conv = "binary" if any(k.endswith("alpha") for k in file.state_dict) else "float"
    return _variables(path, file, name, conv)


def _variables(path, file, name, conv):
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

    A dict of `epoch`, `model`, `state_dict` and `best_prec1`. There is no `optimizer` and no `lr_scheduler`:
    training that goes on from the file starts with a momentum of zero. The running variances are written as they
    are, biased; PyTorch's own would be n / (n - 1) times that.

    Args:
      path: where to; a file that is there is replaced.
      name: of the model.
      variables: of the model, `{"params": ..., "batch_stats": ...}`.
      epoch: epochs done.
      best_top1: percent.
      tau: of the last epoch, the buffer `tau` of every binary convolution.
      steps: optimiser steps done, the buffer `num_batches_tracked` of every batch norm.
      conv: "float" for the twin with real weights.

    Raises:
      UserError: no PyTorch, the variables are not those of the model, or the path cannot be written.
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


def import_file(
    path: str | pathlib.Path, name: str, workdir: str | pathlib.Path, conv: str = "binary"
) -> dict[str, Any]:
    """Makes `workdir` of a PyTorch file: one checkpoint, of step 0, with variables and a record of where from.

    Arguments and errors as in `load_variables`; also a UserError where `workdir` already holds checkpoints or cannot
    be written to. It is left as it was then.

    Returns:
      The record: `model`, `conv`, `file`, `epoch` and `best_prec1` (None where the file does not say).
    """
    # Orbax; not at the top, since whoever only reads a file does without.
    from recu_jax.checkpoint import save_imported

    file = torch_files.read(path)
    variables = _variables(path, file, name, conv)
    conv = "float" if name in FULL_PRECISION else conv
    imported = {
        "model": name,
        "conv": conv,
        "file": pathlib.Path(path).name,
        "epoch": file.epoch,
        "best_prec1": file.best_top1,
    }
    save_imported(workdir, variables, imported)
    return {**imported, "parameters": sum(a.size for a in flatten_dict(variables["params"]).values())}


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser("recu_jax.torch_import", "Makes a workdir of a PyTorch checkpoint.")
    parser.add_argument(
        "file", metavar="FILE", help="a *.pth.tar of the authors' code, a state_dict, a torchvision file"
    )
    parser.add_argument("--model", required=True, metavar="NAME", help=f"one of: {', '.join(sorted(MODELS))}")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="folder to make; without checkpoints so far")
    parser.add_argument("--conv", choices=CONVS, default="binary", help="float: the twin with real weights, no alpha")
    args = parser.parse_args(argv)
    jax.config.update("jax_platforms", "cpu")  # nothing here computes
    made = run(lambda: import_file(args.file, args.model, args.workdir, args.conv))
    said = [f"epoch {made['epoch']}"] if made["epoch"] is not None else []
    said += [f"best top-1 {made['best_prec1']:.2f}%"] if made["best_prec1"] is not None else []
    print(
        f"{args.workdir} holds {args.model} (conv={made['conv']}), {made['parameters']} parameters from {args.file}"
        + (f" ({', '.join(said)})" if said else "")
    )


if __name__ == "__main__":
    main()
