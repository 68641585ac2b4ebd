"""The command that writes a run's best checkpoint as a PyTorch file:

    python -m recu_jax.torch_export WORKDIR FILE

The authors' code loads FILE, and so does `recu_jax.torch_import`; see `recu_jax.torch_import.save_torch`.
"""

import pathlib
from collections.abc import Sequence

import jax

from recu_jax.command_line import ArgumentParser, run
from recu_jax.errors import UserError
from recu_jax.models import FULL_PRECISION
from recu_jax.torch_import import save_torch


def export(workdir: str | pathlib.Path, path: str | pathlib.Path) -> str:
    """Writes the best checkpoint of `workdir` to the new file `path`.

    Returns:
      What was written, in a line.

    Raises:
      UserError: no checkpoint, a model that the authors' code has no counterpart of, or `path` is there or cannot be
        written.
    """
    # Orbax; not at the top, since --help does without.
    from recu_jax.checkpoint import read_best

    if pathlib.Path(path).exists():
        raise UserError(f"{path} is already there; give the path of a new file")
    step, record, variables = read_best(workdir)
    saved, metrics = record["config"], record["metrics"]
    conv, scale = saved["conv"], saved["scale"]
    if conv == "binary" and scale != "learned":
        raise UserError(
            f"{workdir} holds a run with scale={scale!r}; the authors' code knows a learned scale alone: train with "
            "--config.scale=learned"
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
    parser = ArgumentParser("recu_jax.torch_export", "Writes a run's best checkpoint as a PyTorch file.")
    parser.add_argument("workdir", metavar="WORKDIR", help="folder of a run")
    parser.add_argument("file", metavar="FILE", help="new file, in the form of the authors' *.pth.tar")
    args = parser.parse_args(argv)
    jax.config.update("jax_platforms", "cpu")  # nothing here computes
    print(run(lambda: export(args.workdir, args.file)))


if __name__ == "__main__":
    main()
