"""What diagnostics, TensorBoard events and the report cost of an epoch.

    python experiments/benchmarks/diagnostics_overhead.py --config=configs/digits.py --epochs=12 --out=FILE.json
        [--dataset=npz --data_dir=FILE]

Trains as `recu_jax.main` does, in a folder of its own, and times all that is done between the end of an epoch's
evaluation and the begin of its checkpoint, against the epoch's training and evaluation; the diagnostics' part, as they
note it themselves, stands beside. The first epoch, in which all of it is compiled, stands apart.
"""

import argparse
import importlib.util
import json
import pathlib
import platform
import statistics
import tempfile
import time

import jax

from recu_jax import backend, diary, logbook, loop


class Timed(diary.Diary):
    """Notes what an epoch took, and what was written of it."""

    epochs, notes = [], []

    def end_epoch(self, row, state):
        jax.block_until_ready(state)
        began = time.monotonic()
        self.epochs.append(began - self._epoch_began)
        super().end_epoch(row, state)
        self.notes.append(time.monotonic() - began)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=pathlib.Path, required=True)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--dataset")
    parser.add_argument("--data_dir")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    backend.set_xla_flags()
    spec = importlib.util.spec_from_file_location("config", arguments.config)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    config.epochs = arguments.epochs
    config.dataset = arguments.dataset or config.dataset
    config.data_dir = arguments.data_dir
    loop.Diary = Timed
    with tempfile.TemporaryDirectory() as folder:
        loop.train(config, folder)
        rows = logbook.read(pathlib.Path(folder) / "diagnostics.jsonl")
        report = (pathlib.Path(folder) / "report.html").stat().st_size
    later = slice(1, None)
    share = sum(Timed.notes[later]) / sum(Timed.epochs[later])
    diagnostics = sum(row["diagnostics_seconds"] for row in rows[later]) / sum(Timed.epochs[later])
    result = {
        "config": str(arguments.config), "epochs": arguments.epochs, "share_of_epoch": share,
        "diagnostics_share_of_epoch": diagnostics,
        "seconds_of_epoch": statistics.median(Timed.epochs[later]), "seconds": Timed.notes[later],
        "median_seconds": statistics.median(Timed.notes[later]), "first_epoch_seconds": Timed.notes[0],
        "report_bytes": report, "jax": jax.__version__, "python": platform.python_version(),
    }  # fmt: skip
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
