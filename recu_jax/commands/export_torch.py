"""`recu export-torch` writes a run's best checkpoint as a PyTorch file in the format of the authors' code."""

import pathlib
from collections.abc import Sequence

import jax

from recu_jax import paths
from recu_jax.commands.arguments import ArgumentParser, local_path, run, run_path
from recu_jax.errors import UserError
from recu_jax.models import FULL_PRECISION
from recu_jax.pytorch.variables import save_torch

_ABOUT = "Writes a run's best checkpoint as a PyTorch file, which the authors' code loads with strict=True."


def export(workdir: str | pathlib.Path, path: str | pathlib.Path) -> str:
    """Writes the best checkpoint of `workdir` to the new file `path`.

    Returns:
      One line that describes the file.

    Raises:
      UserError: there is no checkpoint; the authors' code lacks the model, the form of alpha, the binarizers or the
        nonlinearity of the run; `path` exists already or cannot be written; or PyTorch is not installed.
    """
    # This imports Orbax. `--help` does not need it, so the import is not at the top.
    from recu_jax.training import bucket
    from recu_jax.training.checkpoint import read_best

    path = paths.local(path)
    if pathlib.Path(path).exists():
        raise UserError(f"{path} is already there; give the path of a new file")
    step, record, variables = read_best(bucket.fetched(paths.of_run(workdir)))
    saved, metrics = record["config"], record["metrics"]
    conv, alpha = saved["conv"], saved["alpha"]
    if conv == "binary" and alpha != "learned":
        raise UserError(
            f"{workdir} holds a run with alpha={alpha!r}; the authors' code knows a learned alpha alone: train with "
            "--config.alpha=learned"
        )
    fields = ("nonlinearity",) if conv == "float" else ("nonlinearity", "weight_binarizer", "activation_binarizer")
    for field in fields:
        if saved.get(field) not in (None, "recu"):
            raise UserError(
                f"{workdir} holds a run with {field}={saved[field]!r}; the authors' code knows ReCU and its own models "
                "alone: train without this field"
            )
    save_torch(
        path,
        saved["model"],
        variables,
        epoch=metrics["epoch"],
        best_top1=metrics["test_top1"],
        tau=metrics.get("tau", 1.0),
        steps=step,
        conv=conv,
    )
    twin = " with real weights" if conv == "float" and saved["model"] not in FULL_PRECISION else ""
    return f"{path} holds {saved['model']}{twin} of {workdir}, epoch {metrics['epoch']}"


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the arguments and writes the file."""
    parser = ArgumentParser("export-torch", _ABOUT, "recu export-torch runs/cifar10 ours.pth.tar")
    parser.add_argument("workdir", metavar="WORKDIR", type=run_path, help="folder of a run")
    parser.add_argument("file", metavar="FILE", type=local_path, help="new file, in the form of the authors' *.pth.tar")
    args = parser.parse_args(argv)
    jax.config.update("jax_platforms", "cpu")  # this command computes nothing, so it needs no accelerator
    print(run(lambda: export(args.workdir, args.file)))
