"""Measures how much time diagnostics, TensorBoard events and the report add to an epoch.

    python experiments/benchmarks/diagnostics_overhead.py --config=configs/digits.py --epochs=12 --out=FILE.json
        [--dataset=npz --data_dir=FILE]

Trains as `recu_jax.main` does, in a temporary folder. Times all that is done between the end of an epoch's evaluation
and the start of its checkpoint, and divides this time by that of the epoch's training and evaluation. Also reports the
share of the diagnostics alone, from the seconds in diagnostics.jsonl. Reports the first epoch separately, because it
compiles.
"""

import argparse
import json
import pathlib
import platform
import statistics
import tempfile
import time

import jax

from recu_jax import config as configs
from recu_jax.ops import backend
from recu_jax.records import DIAGNOSTICS, read_epochs
from recu_jax.training import loop
from recu_jax.training.recorder import RunRecorder


class TimedRecorder(RunRecorder):
    """Records the seconds of each epoch, and the seconds from its end to the start of its checkpoint."""

    epochs, notes = [], []

    def end_epoch(self, state, *args):
        jax.block_until_ready(state)
        self._epoch_ended = time.monotonic()
        self.epochs.append(self._epoch_ended - self._epoch_began)
        super().end_epoch(state, *args)

    def _save(self, *args):
        self.notes.append(time.monotonic() - self._epoch_ended)
        super()._save(*args)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=pathlib.Path, required=True)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--dataset")
    parser.add_argument("--data_dir")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    backend.set_xla_flags()
    config = configs.load(str(arguments.config), epochs=arguments.epochs, data_dir=arguments.data_dir)
    config.dataset = arguments.dataset or config.dataset
    loop.RunRecorder = TimedRecorder
    with tempfile.TemporaryDirectory() as folder:
        loop.train(config, folder)
        rows = read_epochs(pathlib.Path(folder) / DIAGNOSTICS)
        report = (pathlib.Path(folder) / "report.html").stat().st_size
    (first, *notes), (_, *epochs) = TimedRecorder.notes, TimedRecorder.epochs
    diagnostics = sum(row["diagnostics_seconds"] for row in rows[1:])
    result = {
        "config": str(arguments.config), "epochs": arguments.epochs, "share_of_epoch": sum(notes) / sum(epochs),
        "diagnostics_share_of_epoch": diagnostics / sum(epochs),
        "seconds_of_epoch": statistics.median(epochs), "seconds": notes,
        "median_seconds": statistics.median(notes), "first_epoch_seconds": first,
        "report_bytes": report, "jax": jax.__version__, "python": platform.python_version(),
    }  # fmt: skip
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
