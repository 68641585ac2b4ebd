"""`python -m recu_jax.main --config=configs/digits.py [--workdir=DIR] [--mode=train|eval]` trains or evaluates.

`--config.FIELD=VALUE` changes a field of the config. The same command continues a run that was stopped. `recu train`
and `recu eval` are this command with a fixed mode.
"""

import sys
from collections.abc import Sequence

from recu_jax.commands import arguments

with arguments.control_c_ends():
    from absl import app, flags

    from recu_jax import paths
    from recu_jax.commands import config_flag
    from recu_jax.commands.train import train_or_evaluate

_CONFIG = config_flag.define()
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "folder of the run, here or s3://BUCKET/run, gs://BUCKET/run; default: runs/NAME for --config=.../NAME.py",
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval"], "train, or evaluate the best checkpoint")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "this process is one of several; their addresses come from the environment"
)
HELP = config_flag.Help(
    "python -m recu_jax.main --config=FILE [--workdir=DIR] [--mode=train|eval] [--config.FIELD=VALUE ...]",
    "Trains a network, or evaluates its best checkpoint. The same command continues a run that was stopped.",
    "python -m recu_jax.main --config=configs/digits.py --config.epochs=10",
    of_a_run=True,
    own_flags=("workdir", "mode", "distributed"),
)


def main(argv: Sequence[str]) -> None:
    """Trains or evaluates, as the flags say."""
    del argv
    given = _WORKDIR.value or config_flag.default_workdir()
    workdir = arguments.run(lambda: paths.of_run(given, "--workdir"))
    train_or_evaluate(_CONFIG.value, workdir, _MODE.value, _DISTRIBUTED.value)


def run(argv: Sequence[str], help_of: config_flag.Help = HELP) -> None:
    """Runs the command. `argv` holds the program's name, then the arguments; `help_of` is the command's help."""
    # Until a training handles Control-C itself, there is nothing to save.
    with arguments.control_c_ends():
        app.run(main, argv=list(argv), flags_parser=lambda argv: config_flag.parse(argv, help_of))


if __name__ == "__main__":
    arguments.end_with_reader(lambda: run(sys.argv))
