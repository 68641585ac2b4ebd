"""Runs the command line `python -m recu_jax COMMAND`. The console script `recu COMMAND` does the same."""

import importlib
import sys

from recu_jax.commands.arguments import control_c_ends, end_with_reader, fail
from recu_jax.errors import unknown

# Maps the name of each command to its module in `recu_jax.commands` and its line in the help. The two commands of the
# module `train` start through `recu_jax.main`, which defines their flags.
COMMANDS = {
    "train": ("train", "trains a network from a config, or continues a run"),
    "eval": ("train", "evaluates the best checkpoint of a run"),
    "export": ("export", "writes the network of a run to a file: 1 bit per weight, or another format"),
    "predict": ("predict", "classifies a picture with an exported network"),
    "report": ("report", "writes a page about a run, or a comparison of several runs"),
    "summary": ("summary", "counts what a model costs, before any training"),
    "import-torch": ("import_torch", "makes a workdir from a PyTorch checkpoint"),
    "export-torch": ("export_torch", "writes the network of a run to a PyTorch checkpoint"),
}


def _help() -> str:
    listed = "\n".join(f"  {name:<13} {about}" for name, (_, about) in COMMANDS.items())
    return (
        "usage: recu COMMAND [ARGUMENTS]\n\n1-bit neural networks in JAX. `python -m recu_jax` is the same.\n\n"
        f"commands:\n{listed}\n\nexample:\n  recu train --config=configs/digits.py\n\n"
        "`recu COMMAND --help` shows the arguments and the exit statuses of a command."
    )


def main() -> None:
    """Runs the command that the first argument names."""
    end_with_reader(_main)


def _main() -> None:
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        print(_help())
        return
    name, *rest = arguments
    if name not in COMMANDS:
        fail(unknown("command", name, COMMANDS))
    if COMMANDS[name][0] == "train":
        _train_or_evaluate(name, rest)
    else:
        with control_c_ends():
            command = importlib.import_module(f"recu_jax.commands.{COMMANDS[name][0]}")
        command.main(rest)


def _train_or_evaluate(name: str, arguments: list[str]) -> None:
    import dataclasses

    with control_c_ends():
        from recu_jax import main as run

    usage = f"recu {name} --config=FILE [--workdir=DIR] [--config.FIELD=VALUE ...]"
    about = {
        "train": "Trains a network. The same command continues a run that was stopped.",
        "eval": "Evaluates the best checkpoint of a run on its test set.",
    }
    help_of = dataclasses.replace(
        run.HELP, usage=usage, about=about[name], example=f"recu {name} --config=configs/digits.py",
        own_flags=("workdir", "distributed"),
    )  # fmt: skip
    if any(argument.startswith(("--mode", "-mode")) for argument in arguments):
        fail(f"--mode is not an argument of `recu {name}`, which sets the mode itself; leave it out")
    run.run([f"recu {name}", f"--mode={name}", *arguments], help_of)


if __name__ == "__main__":
    main()
