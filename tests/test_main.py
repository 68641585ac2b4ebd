"""The command line in real processes: what a run prints and leaves; mistakes are in `robustness/bad_input.py`."""

import functools
import json

import pytest

from tests.support import commands

run = functools.partial(commands.run, "main")
DIGITS = "--config=configs/digits.py"


@pytest.mark.slow
def test_train_evaluate_and_refuse_another_config(tmp_path):
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    common = [DIGITS, f"--workdir={tmp_path / 'run'}", "--config.epochs=2"]
    trained = run(*common, **cache)
    assert trained.returncode == 0 and trained.stderr == ""
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert set(rows[0]) == {
        "epoch", "step", "train_loss", "train_top1", "test_loss", "test_top1", "test_top5", "learning_rate", "tau",
        "images_per_second", "test_images",
    }  # fmt: skip
    best = max(rows, key=lambda row: (row["test_top1"], row["epoch"]))
    assert trained.stdout.splitlines()[-1] == (
        f"final test top-1 {rows[-1]['test_top1']:.2f}%, best {best['test_top1']:.2f}% (epoch {best['epoch']}); "
        f"workdir {tmp_path / 'run'}"
    )
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))

    evaluated = run(*common, "--mode=eval", "--config.eval_batch_size=50", **cache)
    assert evaluated.returncode == 0, evaluated.stderr
    assert f"test top-1 {best['test_top1']:.2f}%" in evaluated.stdout and "on 360 images" in evaluated.stdout

    other = run(*common, "--config.learning_rate=0.2")
    assert other.returncode == 2
    assert "learning_rate was 0.1 and is 0.2" in other.stderr and len(other.stderr.splitlines()) == 1
    wider = run(*common, XLA_FLAGS="--xla_force_host_platform_device_count=4")
    assert wider.returncode == 2 and "num_devices was 1 and is 4" in wider.stderr
    assert "or set --config.resume_on_other_devices=True" in wider.stderr and len(wider.stderr.splitlines()) == 1
    wider = run(*common, "--config.resume_on_other_devices=True", XLA_FLAGS="--xla_force_host_platform_device_count=4")
    assert wider.returncode == 0, wider.stderr
    same = run(*common, **cache)
    assert same.stdout.splitlines()[-1] == trained.stdout.splitlines()[-1]
