"""Tests what a run shows: a bar on a terminal, lines elsewhere, and nothing if it is silent."""

import fcntl
import os
import pty
import re
import struct
import termios
import time

import pytest

from recu_jax.training.progress import Progress, close_bars, say

ROW = {"epoch": 1, "train_loss": 1.0, "train_top1": 50.0, "test_loss": 0.5, "test_top1": 75.0, "images_per_second": 9.0}


@pytest.fixture(autouse=True)
def no_bar_is_left():
    """Closes all bars after a test. An open bar would shift the bars of the next tests by a line."""
    yield
    close_bars()


def epoch(progress, done=0):
    progress.start_epoch(1, done)
    for _ in range(done, 10):
        shown = progress.due(1)
        progress.advance(1, **({"loss": 2.0, "top1": 12.5} if shown else {}))
    progress.end_epoch(ROW)


def test_a_line_every_so_many_steps_and_one_for_the_epoch(capsys):
    epoch(Progress(3, 10, 32, log_every_steps=4))
    *lines, last = capsys.readouterr().out.splitlines()
    steps = [
        re.match(r"epoch 1/3, step (\d+)/10: loss 2\.000, top-1 12\.5%, \d+ images/s, ", line)[1] for line in lines
    ]
    assert steps == ["4", "8"]
    assert last.startswith("epoch 1/3: train loss 1.000, top-1 50.00%; test loss 0.500, top-1 75.00%; 9.0 images/s; ")
    assert re.search(r"; \d+:\d\d left, until \d\d:\d\d$", last)


def test_a_resumed_epoch_counts_on(capsys):
    epoch(Progress(1, 10, 32, log_every_steps=4), done=5)
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("epoch 1/1, step 9/10: ") and last.endswith("9.0 images/s")  # last epoch: no time is left


def test_compilation_is_told_and_left_out_of_the_rate(capsys):
    progress = Progress(1, 10, 32, log_every_steps=2)
    progress.start_epoch(1)
    progress.compiled(since=time.monotonic() - 7)
    progress.advance(1, loss=2.0, top1=12.5)  # the dispatch that compiled
    progress.advance(1, loss=2.0, top1=12.5)
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "compiled, and the first step done, in 7 s"
    assert second == "epoch 1/1, step 1/10: loss 2.000, top-1 12.5%" and third.startswith(
        second.replace("1/10", "2/10")
    )
    assert "images/s" in third


def test_the_first_time_left_leaves_out_what_the_epoch_compiled_at_its_end(monkeypatch, capsys):
    """An epoch of 10 steps of 32 images at 160 images a second takes 2 s. Its evaluation compiles for 30 s."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress, row = Progress(41, 10, 32, log_every_steps=100), ROW | {"images_per_second": 160.0}
    progress.start_epoch(1)
    progress.compiled(since=0.0)
    now[0] += 32
    progress.end_epoch(row)
    now[0] += 3
    progress.end_epoch(row | {"epoch": 2})
    _, first, second = capsys.readouterr().out.splitlines()
    assert "; 1:20 left" in first and "; 1:57 left" in second  # 40 epochs of 2 s, then 39 of 3 s

    progress = Progress(2, 1, 32, log_every_steps=100)  # the dispatch that compiled is the whole epoch
    progress.end_epoch(ROW | {"images_per_second": 0.0})
    said = capsys.readouterr().out
    assert "left" not in said and "images/s" not in said


def test_the_time_left_leaves_out_a_compilation_in_the_second_epoch(monkeypatch, capsys):
    """An earlier process did all 10 steps of epoch 1. This one only tests epoch 1, and compiles for 60 s in epoch 2."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress(41, 10, 32, log_every_steps=100)
    progress.start_epoch(1, done=10)
    progress.end_epoch(ROW | {"images_per_second": 0.0})
    now[0] += 62
    progress.compiled(since=0.0)
    progress.end_epoch(ROW | {"epoch": 2, "images_per_second": 160.0})
    now[0] += 3
    progress.end_epoch(ROW | {"epoch": 3, "images_per_second": 160.0})
    first, _, second, third = capsys.readouterr().out.splitlines()
    assert "left" not in first and "; 1:18 left" in second and "; 1:54 left" in third  # 39 epochs of 2 s, 38 of 3 s


def test_the_compilation_at_the_end_of_the_first_epoch_is_announced(capsys):
    progress = Progress(2, 10, 32, log_every_steps=100)
    for number in (1, 2):
        progress.start_epoch(number)
        progress.testing()
        progress.end_epoch(ROW | {"epoch": number})
    first, *others = capsys.readouterr().out.splitlines()
    assert first == "epoch 1/2: all steps done; testing; compiling"
    assert len(others) == 2 and not any("testing" in line for line in others)


def test_silent(capsys):
    epoch(Progress(3, 10, 32, log_every_steps=4, silent=True))
    assert capsys.readouterr().out == ""


def test_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    epoch(Progress(3, 10, 32, log_every_steps=4))
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith("epoch 1/3: ") and len(out.splitlines()) == 1
    assert "epoch 1/3" in err and "loss 2.000, top-1 12.5%" in err


def test_a_bar_says_all_on_80_columns(monkeypatch, capsys):
    """The numbers are long: epochs as in the paper, a top-1 of 100%, and hours left."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("tqdm.std._screen_shape_wrapper", lambda: lambda file: (79, 40))  # tqdm uses one column less
    now = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    progress = Progress(600, 10_000_000, 32, log_every_steps=1)
    progress.start_epoch(100)
    progress.compiled(since=time.monotonic())
    progress.advance(1, loss=2.345, top1=100.0)
    for _ in range(3):
        now[0] += 2
        progress.advance(1000, loss=2.345, top1=100.0)
    progress.testing()
    drawn = [line for line in re.split("[\r\n]", capsys.readouterr().err) if line.strip()]
    assert max(map(len, drawn)) <= 80 - len("^C")
    assert drawn[0].startswith("epoch 100/600:   0%|") and drawn[0].endswith("| compiling, 0:00")
    shown = r"epoch 100/600:   0%\|.+\| loss 2\.345, top-1 100\.0%, 160\d\d images/s, 5:\d\d:\d\d left"
    assert any(re.fullmatch(shown, line) for line in drawn), drawn
    assert drawn[-1].endswith("| testing; compiling, 0:00")


def test_a_bar_shows_each_second_that_the_run_compiles(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("recu_jax.training.progress._BAR_SECONDS", 0.01)
    progress = Progress(1, 10, 32, log_every_steps=4)
    progress.start_epoch(1, since=time.monotonic() - 59.9)
    shown = ""
    while "| compiling, 1:01" not in shown:
        shown += capsys.readouterr().err
        time.sleep(0.01)
    progress.close()
    capsys.readouterr()
    time.sleep(0.1)
    assert capsys.readouterr().err == ""  # nothing is drawn after the end


def test_a_bar_counts_only_steps_that_the_devices_have_done(monkeypatch, capsys):
    """The host runs ahead of the devices, and waits for them where loss and top-1 are fetched."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    now = [0.0]
    for clock in ("time.monotonic", "tqdm.std.time"):
        monkeypatch.setattr(clock, lambda: now[0])
    progress = Progress(1, 10, 32, log_every_steps=4)
    progress.start_epoch(1)
    progress.compiled(since=0.0)
    capsys.readouterr()
    for step in range(1, 6):
        now[0] += 8.0 if step == 5 else 0.2  # the fifth step waits for all before it
        progress.advance(1, **({"loss": 2.0, "top1": 12.5} if step == 5 else {}))
    *before, _, after = [line for line in re.split("[\r\n]", capsys.readouterr().err) if line.strip()]
    assert all(re.fullmatch(r"epoch 1/1:  10%\|.+\| training", line) for line in before), before
    assert re.fullmatch(r"epoch 1/1:  50%\|.+\| loss 2\.000, top-1 12\.5%, 15 images/s, 0:11 left", after), after
    progress.advance(5)
    progress.testing()
    assert re.search(r"epoch 1/1: 100%\|.+\| testing; compiling, 0:00", capsys.readouterr().err)


@pytest.mark.parametrize("processes, shown", [(1, [4, 8]), (2, [])])
def test_slow_steps_have_a_line_every_30_seconds(processes, shown, monkeypatch, capsys):
    """An epoch has 10 steps of 8 s each. These are fewer steps than `log_every_steps`."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr("jax.process_count", lambda: processes)
    progress = Progress(1, 10, 32, log_every_steps=20)
    progress.start_epoch(1)
    for _ in range(10):
        now[0] += 8
        progress.advance(1, **({"loss": 2.0, "top1": 12.5} if progress.due(1) else {}))
    lines = capsys.readouterr().out.splitlines()
    assert [int(line.partition("step ")[2].partition("/")[0]) for line in lines] == shown


@pytest.mark.parametrize("columns, shown", [(20, 20), (0, 80)])
def test_a_line_is_broken_between_words_where_the_terminal_ends(columns, shown):
    terminal, process = pty.openpty()
    fcntl.ioctl(process, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    path, written = "/a-path/that-is-longer/than-the-terminal", ""
    with open(process, "w") as file:
        say(f"a saved step, in {path} and {'more ' * 20}end", file)
        while not written.endswith("end\r\n"):
            written += os.read(terminal, 4096).decode()
    os.close(terminal)
    lines = written.splitlines()
    assert all(len(line) <= shown or line == f"  {path}" for line in lines)
    assert " ".join(line.strip() for line in lines).count("more") == 20 and all(line[0] in "a " for line in lines)


@pytest.mark.parametrize(
    "terminal, processes, shown",
    [(True, 1, [2, 5, 8, 11, 14, 17, 20]), (True, 2, [20]), (False, 1, [20])],
    ids=["terminal", "several processes", "plain"],
)
def test_a_bar_of_slow_steps_moves_each_second(terminal, processes, shown, monkeypatch):
    """The host dispatches steps at once, and waits for all of them to fetch loss and top-1. A step takes 0.4 s."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    monkeypatch.setattr("jax.process_count", lambda: processes)
    progress = Progress(1, 100, 32, log_every_steps=20)
    progress.start_epoch(1)
    progress.compiled(since=0.0)
    progress.advance(1)
    fetched = []
    for step in range(2, 23):
        due = progress.due(1)
        if due:
            fetched.append(step)
            now[0] = 0.4 * (step - 1)
        progress.advance(1, **({"loss": 2.0, "top1": 12.5} if due else {}))
    assert fetched == shown
