"""Checks what a run prints and writes, in real processes. `robustness/bad_input.py` has users' mistakes."""

import functools
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from experiments import runs
from tests.support import ROOT, commands, image_folders, one_block, processes, terminals

run = functools.partial(commands.run, "main")
DIGITS = "--config=configs/digits.py"


@pytest.mark.slow
def test_train_evaluate_and_refuse_another_config(tmp_path):
    common = [*one_block.arguments(tmp_path), f"--workdir={tmp_path / 'run'}", "--config.epochs=2"]
    common.append("--config.tensorboard=True")
    trained = run(*common)
    assert trained.returncode == 0 and trained.stderr == ""
    assert "epoch 1/2: all steps done; testing; compiling" in trained.stdout.splitlines()
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

    evaluated = run(*common, "--mode=eval", "--config.eval_batch_size=50")
    assert evaluated.returncode == 0, evaluated.stderr
    assert f"test top-1 {best['test_top1']:.2f}%" in evaluated.stdout and "on 360 test images" in evaluated.stdout

    other = run(*common, "--config.learning_rate=0.2")
    assert other.returncode == 2
    assert "learning_rate was 0.1 and is 0.2" in other.stderr and len(other.stderr.splitlines()) == 1
    wider = run(*common, XLA_FLAGS="--xla_force_host_platform_device_count=4")
    assert wider.returncode == 2 and "num_devices was 1 and is 4" in wider.stderr
    assert "or set --config.resume_on_other_devices=True" in wider.stderr and len(wider.stderr.splitlines()) == 1
    wider = run(*common, "--config.resume_on_other_devices=True", XLA_FLAGS="--xla_force_host_platform_device_count=4")
    assert wider.returncode == 0, wider.stderr
    (tmp_path / "run" / "report.html").unlink()
    same = run(*common)
    # The same command for a finished run writes the report if it is missing.
    ends = [
        "finished: all 2 epochs are done, and nothing is left to train",
        f"report: {tmp_path / 'run' / 'report.html'}",
        trained.stdout.splitlines()[-1],
    ]
    assert same.stdout.splitlines()[2:] == ends
    made = (tmp_path / "run" / "report.html").stat().st_mtime_ns
    assert run(*common).stdout.splitlines()[2:] == ends
    assert (tmp_path / "run" / "report.html").stat().st_mtime_ns == made


STARTS = re.compile(
    r"digits_resnet8 \(binary\) on digits, 1 device \(cpu\), [\w ]*kernels; workdir /\S+; reading the images$"
)
LINES = (
    STARTS,
    re.compile(r"1437 training and 360 test images, 8x8x1$"),
    re.compile(r"compiling$"),
    re.compile(r"compiled, and the first step done, in \d+ s$"),
    re.compile(r"epoch \d/2: train loss [\d.]+, top-1 [\d.]+%; test loss .* images/s(; [\d:]+ left, until [\d:]+)?$"),
    re.compile(r"epoch 2/2: .*\^C$"),  # the progress bar, when Control-C was pressed
    re.compile(r"SIGINT: stopping after this step$"),
    re.compile(r"stopped by SIGINT; the same command continues from step \d+, saved in /\S+$"),
    re.compile(r"resuming /\S+ at step \d+ of 88: 1 of 2 epochs are done, and \d+ of the 44 steps of the next$"),
    re.compile(r"finished: all 2 epochs are done, and nothing is left to train$"),
    re.compile(r"report: /\S+/report.html$"),
    re.compile(r"no report.html: .*$"),
    re.compile(r"final test top-1 [\d.]+%, best [\d.]+% \(epoch \d\); workdir /\S+$"),
)


# The warnings are about forks of a process with threads. Here the child starts another program at once, which is safe.
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning", "ignore:This process:DeprecationWarning")
@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 120])
def test_no_line_on_a_terminal_is_torn(columns, tmp_path):
    """The run is stopped with Control-C, and continued by the same command."""
    arguments = [DIGITS, f"--workdir={tmp_path / 'run'}", "--config.epochs=2", "--config.log_every_steps=4"]
    stopped, first = terminals.run("main", arguments, columns, interrupt_at=r"epoch 2/2:[^\n]*loss")
    ended, second = terminals.run("main", arguments, columns)
    third_ended, third = terminals.run("main", arguments, columns)
    assert (stopped, ended, third_ended) == (130, 0, 0)
    # Only a line with a path, or with another slash, may be longer than the terminal.
    assert all(len(line) <= columns or "/" in line for line in first + second + third)
    first, second, third = ("\n".join(lines).replace("\n  ", " ").split("\n") for lines in (first, second, third))
    lines = [line for line in first + second + third if line]
    assert [line for line in lines if not any(kind.match(line) for kind in LINES)] == []
    assert all(
        len(line) <= columns for line in lines if "%|" in line
    )  # a bar fits into one row, also with ^C behind it
    assert STARTS.match(first[0]) and any("stopping after this step" in line for line in first)
    assert second[-2].startswith("final test top-1") and "compiled, and" in "".join(second)
    assert third[-2] == second[-2] and "compil" not in "".join(third)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0, 2, 5])
def test_control_c_ends_a_run_that_compiles_at_once(seconds, tmp_path):
    """Nothing else is printed, such as the traceback of a callback.

    The digits' own model can compile in less than 5 s; ResNet-20 takes more than twice as long.
    """
    arguments = [DIGITS, "--config.model=cifar_resnet20"]
    stopped = processes.start(arguments, tmp_path / "run", environment={"PYTHONUNBUFFERED": ""})
    while "compiling" not in runs.log(tmp_path / "run"):
        time.sleep(0.02)
    time.sleep(seconds)
    began = time.monotonic()
    stopped.send_signal(signal.SIGINT)
    assert stopped.wait(processes.PATIENCE_SECONDS) == 130
    assert time.monotonic() - began < 3
    last = "stopped by SIGINT; the same command starts anew: nothing is saved yet"
    assert runs.log(tmp_path / "run").splitlines()[2:] == ["compiling", last]


@pytest.mark.slow
@pytest.mark.parametrize("kind,reader", [("digits", "sklearn.datasets"), ("photographs", "PIL.Image")])
def test_a_run_says_at_once_what_it_does(kind, reader, tmp_path):
    """The log says it before the run compiles, at most two seconds after the imports.

    The package that reads the dataset is one of the imports. A slow processor needs three seconds for scikit-learn.
    """
    arguments, where, images = [DIGITS], "", "1437 training and 360 test images, 8x8x1"
    if kind == "photographs":
        folder = image_folders.write(tmp_path / "images", 8, 4, ".jpg", lambda r: r.integers(0, 256, (50, 60, 3), "u1"))
        fields = {"dataset": "image_folder", "data_dir": folder, "image_size": 32, "eval_resize": 40, "batch_size": 4}
        arguments += [f"--config.{name}={value}" for name, value in fields.items()]
        where, images = f" in {folder}", "8 training and 4 test images, 32x32x3"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    imported = f"import recu_jax.training.loop, recu_jax.training.recorder, jax, {reader}; jax.devices()"
    imports, seconds = [], []
    # Twice, because another process can make one start slow.
    for attempt in ("first", "second"):
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", imported], check=True, cwd=ROOT, env=environment)
        imports.append(time.monotonic() - began)
        began = time.monotonic()
        run_of_it = processes.start(arguments, tmp_path / attempt, environment={"PYTHONUNBUFFERED": ""})
        while "compiling" not in (said := runs.log(tmp_path / attempt)) and run_of_it.poll() is None:
            time.sleep(0.02)
        seconds.append(time.monotonic() - began)
        processes.end_all()
        model, size, _ = said.splitlines()
        assert model.startswith("digits_resnet8 (binary) on ")
        assert model.endswith(f"; workdir {tmp_path / attempt}; reading the images{where}")
        assert size.startswith(images)
    assert min(seconds) < min(imports) + 2


KILLS_ITSELF = "import os, signal; os.kill(os.getpid(), signal.SIGINT)\n"


def test_control_c_during_the_imports_ends_the_command_in_one_line(tmp_path):
    (tmp_path / "absl.py").write_text(KILLS_ITSELF)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-m", "recu_jax.main", "--config=configs/digits.py"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "stopped by SIGINT\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["recu_jax.main", "recu_jax train", "recu_jax eval"])
def test_control_c_before_the_run_begins_ends_the_command_in_one_line(name, tmp_path):
    """Sends SIGINT within a callback of the garbage collector, where Python ignores a KeyboardInterrupt."""
    (tmp_path / "config.py").write_text(
        f"import gc\ndef callback(*_):\n    {KILLS_ITSELF}gc.callbacks.append(callback)\ngc.collect()\n"
        "def get_config():\n    return None\n"
    )
    command = [sys.executable, "-m", *name.split(), f"--config={tmp_path}/config.py"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "stopped by SIGINT\n")
