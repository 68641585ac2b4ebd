"""Runs a table of wrong input. Each row names what is wrong, the command, and the line that it must print.

    python -m tests.robustness.bad_input

The command runs every row in a process of its own, forked from one that has imported everything. A row with
environment variables gets a new Python instead. The command prints a table of what is wrong, the line and the exit
status, and then the number of rows. `test_bad_input` asserts for each row that its command prints exactly one line,
`error: ...`, that the exit status is 2, and that no file in the row's folder is new or changed.
"""

import dataclasses
import importlib.util
import pathlib
import sys
import tempfile
from collections.abc import Callable, Sequence

from tests.support import commands, forked

Arguments = Sequence[object]


@dataclasses.dataclass(frozen=True)
class Row:
    """Attributes:
    wrong: what is wrong, in words.
    line: a part of the line that the command must print; `DIR` stands for the row's own folder.
    make: makes the row's files in a folder, and returns the arguments of the command.
    command: `main` for `python -m recu_jax.main`, or a command of `recu`.
    needs: packages without which the row is left out.
    environment: variables that are added to those of the process.
    """

    wrong: str
    line: str
    make: Callable[[pathlib.Path], Arguments]
    command: str = "main"
    needs: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


def the_command(wrong, line, *arguments, config="configs/digits.py"):
    """Returns a row for a wrong command line."""
    configs = [f"--config={config}"] if config else []
    return Row(wrong, line, lambda folder: [*configs, *arguments, f"--workdir={folder / 'run'}"])


def field(name, value, line, config="configs/digits.py", **others):
    """Returns a row for a value of one config field that is wrong, or wrong together with the fields `others`."""
    given = [f"--config.{k}={v}" for k, v in {name: value, **others}.items()]
    what = ", ".join(f"{k}={v}" for k, v in {name: value, **others}.items())
    where = "" if config == "configs/digits.py" else f" in {config}"
    return the_command(f"config.{what}{where}", line, *given, config=config)


def config_file(wrong, line, make):
    """Returns a row for a wrong config file."""
    return Row(wrong, line, lambda folder: [f"--config={make(folder)}", f"--workdir={folder / 'run'}"])


def source(wrong, line, make, name="data_dir", needs=(), **others):
    """Returns a row for a wrong file or folder that a field of the config names."""

    def arguments(folder):
        given = {**others, name: make(folder)}
        return [
            "--config=configs/digits.py", f"--workdir={folder / 'run'}",
            *(f"--config.{k}={v}" for k, v in given.items()),
        ]  # fmt: skip

    return Row(wrong, line, arguments, needs=needs)


def npz(wrong, line, make):
    return source(wrong, line, make, dataset="npz", batch_size=4, eval_batch_size=4)


# Fields for small images. With num_workers=0, the process itself decodes.
PHOTOS = {
    "image_size": 16, "eval_resize": 16, "batch_size": 8, "eval_batch_size": 4, "num_workers": 0, "epochs": 1,
}  # fmt: skip


def photos(wrong, line, make, dataset="image_folder", needs=(), **others):
    return source(wrong, line, make, dataset=dataset, needs=("cv2", "grain", "PIL", *needs), **{**PHOTOS, **others})


def tfds(wrong, line, make, dataset="cifar10"):
    needs = ("tensorflow_datasets", "array_record")
    if dataset == "imagenet2012":
        return photos(wrong, line, make, dataset, needs)
    return source(wrong, line, make, dataset=dataset, needs=(*needs, "cv2"), batch_size=4, eval_batch_size=4)


def torch_import(wrong, line, make, *options, needs=("torch",)):
    def arguments(folder):
        return [make(folder), *(options or ("--model=cifar_resnet20",)), f"--workdir={folder / 'run'}"]

    return Row(wrong, line, arguments, "import-torch", needs)


def reason_to_leave_out(row: Row) -> str | None:
    missing = [package for package in row.needs if importlib.util.find_spec(package) is None]
    return f"pip install {' '.join(missing)}" if missing else None


def tree(folder: pathlib.Path) -> dict[str, bytes | None]:
    """Returns {path below `folder`: content of the file, or None for a folder}."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a row's command did: exit status, stderr, and the paths that are new or changed."""

    status: int
    stderr: str
    changed: list[str]


def run(row: Row, folder: pathlib.Path, from_nothing: bool = False) -> Answer:
    """Makes the row's files in `folder` and runs its command in a process of its own.

    The process is a fork of one that has imported the modules. With `from_nothing`, or if the row has an environment, a
    new Python is started.
    """
    folder = folder.resolve()
    arguments = [str(a) for a in row.make(folder)]
    before = tree(folder)
    if from_nothing or row.environment:
        done = commands.run(row.command, *arguments, **dict(row.environment))
        status, stderr = done.returncode, done.stderr
    else:
        ended = forked.run(row.command, arguments, torch=row.command.endswith("torch") or "torch" in row.needs)
        status, stderr = ended.status, ended.stderr
    after = tree(folder)
    changed = sorted(k for k in before.keys() | after.keys() if k not in before or before[k] != after.get(k))
    return Answer(status, stderr.replace(str(folder), "DIR"), changed)


def problems(row: Row, answer: Answer) -> list[str]:
    """Lists everything that is wrong with the answer. Returns [] if the answer is right."""
    found = []
    lines = answer.stderr.splitlines()
    if len(lines) != 1 or not lines[0].startswith("error: ") or row.line not in lines[0]:
        found.append(f"said {answer.stderr[-1500:]!r} and must say {row.line!r} in one line")
    if answer.status != 2:
        found.append(f"exit status {answer.status}")
    if answer.changed:
        found.append(f"left or changed {answer.changed}")
    return found


def main() -> None:
    from tests.robustness.bad_rows import ROWS

    wrong = left_out = 0
    print("| what is wrong | the line it gives | exit status |\n|---|---|---|")
    for row in ROWS:
        if reason_to_leave_out(row):
            left_out += 1
            continue
        with tempfile.TemporaryDirectory() as folder:
            answer = run(row, pathlib.Path(folder))
        line = answer.stderr.strip().replace("|", "\\|")
        failed = problems(row, answer)
        wrong += bool(failed)
        print(f"| {row.wrong} | {line} | {answer.status} |" + f" {failed}" * bool(failed), flush=True)
    print(f"\n{len(ROWS) - left_out} rows run, {wrong} not as they must be; {left_out} left out for want of a package")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
