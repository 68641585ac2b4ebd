"""The command line in real processes: one line for each mistake, and what a run prints and leaves."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def run(*arguments, cwd=ROOT, **environment):
    # One device, whatever the tests of this process run on.
    env = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, "-m", "recu_jax.main", *arguments], cwd=cwd, env=env, capture_output=True, text=True
    )


DIGITS = "--config=configs/digits.py"


@pytest.mark.parametrize(
    "arguments,message",
    [
        ([], "--config is not set"),
        (["--config=configs/digit.py"], "configs/digit.py does not exist"),
        (["--config=tests/golden_values.py"], "get_config"),
        ([DIGITS, "--config.epoch=3"], "--config field is 'epoch', which does not exist; did you mean 'epochs'?"),
        ([DIGITS, "--config.epochs=many"], "epochs"),
        ([DIGITS, "--mode=test"], "mode"),
        ([DIGITS, "--wrkdir=/tmp"], "wrkdir"),
        ([DIGITS, "extra"], "'extra' is not a flag"),
        ([DIGITS, "--config.tau_min=0.4"], "config.tau_min is 0.4"),
        ([DIGITS, "--config.tau_min=0.95", "--config.tau_max=0.9"], "0.5 < tau_min <= tau_max <= 1"),
        ([DIGITS, "--config.model=cifar_resnet19"], "did you mean 'cifar_resnet1"),
        ([DIGITS, "--config.batch_size=0"], "config.batch_size is 0; it must be at least 1"),
        ([DIGITS, "--config.batch_size=5000"], "digits has only 1437 training images"),
        ([DIGITS, "--config.num_devices=7"], "config.num_devices is 7"),
        ([DIGITS, "--config.lr_schedule=step"], "config.lr_milestones is empty"),
        ([DIGITS, "--config.dataset=npz", "--config.data_dir=/no/such.npz"], "/no/such.npz"),
        ([DIGITS, "--mode=eval"], "holds no checkpoints"),
        (
            [DIGITS, "--config.init_from=/no/run"],
            "/no/run does not exist; give the workdir of a run, or a PyTorch file",
        ),
        ([DIGITS, "--config.teacher=/no/run"], "/no/run does not exist"),
        ([DIGITS, "--config.model=resnet18"], "this model is full precision only: use --config.conv=float"),
        (["--config=configs/imagenet.py", "--config.eval_resize=200"], "config.eval_resize is 200"),
        (["--config=configs/imagenet.py", "--config.on_corrupt=ignore"], "config.on_corrupt is 'ignore'"),
        (["--config=configs/imagenet.py", "--config.data_dir=/no/such"], "/no/such"),
        (["--config=configs/imagenet_two_stage.py:stage3"], "it must be one of: stage1, stage2"),
        (["--config=configs/tiny_imagenet.py", "--config.data_dir=/no/such"], "/no/such"),
        (["--config=configs/cifar10.py", "--config.data_dir=/no/such"], "/no/such, which is no folder"),
        (["--config=configs/cifar10.py", "--config.data_dir=/data/cifar10"], "that holds cifar10: /data"),
        (["--config=configs/imagenet.py", "--config.crop_area=0.5"], "config.crop_area is (0.5,)"),
        ([DIGITS, "--epochs=3"], "it is a field of the config: --config.epochs=VALUE"),
    ],
)
def test_a_mistake_gets_one_line_and_leaves_nothing(tmp_path, arguments, message):
    workdir = tmp_path / "run"
    result = run(*arguments, f"--workdir={workdir}")
    assert result.returncode != 0
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    assert message in lines[0]
    assert not workdir.exists()


def test_a_batch_that_does_not_divide_over_the_devices(tmp_path):
    result = run(
        DIGITS, "--config.batch_size=66", f"--workdir={tmp_path / 'run'}",
        XLA_FLAGS="--xla_force_host_platform_device_count=4",
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr == (
        "error: config.batch_size is 66, which does not divide over 4 devices; use a multiple of 4, or set "
        "config.num_devices\n"
    )


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
    same = run(*common, **cache)
    assert same.stdout.splitlines()[-1] == trained.stdout.splitlines()[-1]
