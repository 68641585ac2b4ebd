"""The checks of a release, listed in `CHECKS`. A check returns a line that says what it found, or raises CheckError."""

import datetime
import functools
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys

from wheel_contents import ROOT, version

RECORDS = "experiments/results/release"
PYTHONS = ("3.11", "3.12", "3.13")
MOST_SECONDS_OF_IMPORT, MOST_TIMES_FLAX, PAIRS = 0.1, 1.1, 7
# Words with which the text of another licence than Apache-2.0 begins. Only source files of the package are searched:
# the wheels and the sdist do not contain the packages that they depend on.
FOREIGN = re.compile(
    r"Copyright \(c\)|SPDX-License-Identifier|GNU (Lesser )?General Public|Permission is hereby granted"
)


class CheckError(Exception):
    """Raised when a check fails. The message says what is wrong, and what to do."""


def require(holds, message):
    if not holds:
        raise CheckError(message)


def run(*command, cwd=ROOT, path=None):
    """Runs a command and returns what it prints to stdout.

    The command does not see PYTHONPATH, XLA_FLAGS and VIRTUAL_ENV. It looks for programs in the folder `path` first.
    """
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "XLA_FLAGS", "VIRTUAL_ENV")}
    if path is not None:
        kept["PATH"] = f"{path}:{kept['PATH']}"
    command = [str(part) for part in command]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=kept)
    if done.returncode:
        # The reason may be in either, and pip's warnings in stderr are long.
        last = "\n".join(line for text in (done.stdout, done.stderr) for line in text.strip().splitlines()[-15:])
        raise CheckError(f"{' '.join(command)} ended with status {done.returncode}:\n{last}")
    return done.stdout.strip()


class Release:
    """What several checks share: the files of the release, environments and a clone. Each is made at its first use."""

    def __init__(self, work, dist=None):
        self.work, self._dist = work, dist

    @functools.cached_property
    def files(self):
        """The sdist and the wheels. They are built unless --dist names a folder that holds them."""
        if self._dist is None:
            self._dist = self.work / "dist"
            run(sys.executable, ROOT / "release" / "build_wheels.py", f"--dist={self._dist}")
        files = sorted(self._dist.iterdir())
        require(files, f"{self._dist} is empty; run release/build_wheels.py --dist={self._dist}")
        return files

    @functools.cached_property
    def tools(self):
        """The interpreter of an environment with the tools of the checks."""
        return self._environment("tools", sys.executable, "twine>=6", "lief>=0.16")

    @functools.cached_property
    def clone(self):
        """A clone of the last commit, and the interpreter of a new environment for it."""
        run("git", "clone", "-q", ROOT, self.work / "clone")
        return self.work / "clone", self._environment("clone_environment", interpreter(PYTHONS[0]))

    @functools.cache  # noqa: B019
    def installed(self, python):
        """Installs the release with pip into a new environment. Returns the environment's interpreter.

        pip finds recu_jax in the folder of the release, as it would on PyPI, and chooses the wheel of this machine.
        """
        where = f"--find-links={self.files[0].parent}"
        return self._environment(f"python{python}", interpreter(python), where, f"recu_jax=={version()}")

    def _environment(self, name, python, *packages):
        folder = self.work / name
        run(python, "-m", "venv", folder)
        if packages:
            run(folder / "bin" / "pip", "install", "-q", *packages, cwd=self.work)
        return folder / "bin" / "python"


def interpreter(python):
    """Finds the interpreter of a Python version in PATH or in pyenv."""
    found = run(ROOT / ".ci" / "interpreter", python)
    require(found, f"there is no Python {python} in PATH or pyenv; install it")
    return found


def clean_tree(release):
    """Checks that the working tree has no changes besides the records of these checks."""
    changed = run("git", "status", "--porcelain", "--", ".", f":!{RECORDS}")
    require(not changed, f"files are not committed:\n{changed}")
    return f"commit {run('git', 'rev-parse', '--short', 'HEAD')}"


def same_version(release):
    """Checks that the package, CHANGELOG.md, CITATION.cff and the version tags of this commit name one version."""
    found = {"recu_jax/__init__.py": version()}
    cited = re.search(r"^version: *[\"']?([^\s\"']+)", _text("CITATION.cff"), re.MULTILINE)
    found["CITATION.cff"] = cited.group(1) if cited else None
    released = re.search(r"^## \[(\d[^\]]*)\]", _text("CHANGELOG.md"), re.MULTILINE)
    found["CHANGELOG.md"] = released.group(1) if released else None
    for tag in run("git", "tag", "--points-at", "HEAD", "--list", "v*").split():
        found[f"tag {tag}"] = tag.removeprefix("v")
    require(len(set(found.values())) == 1, f"the versions differ: {found}; set all to {version()}")
    return f"{version()} in {', '.join(found)}"


def changelog(release):
    """Checks that CHANGELOG.md has a section for this version, with a date and at least one change."""
    section = re.search(
        rf"^## \[{re.escape(version())}\] - (\S+)\n(.*?)(?=^## |\Z)", _text("CHANGELOG.md"), re.M | re.S
    )
    require(section, f"CHANGELOG.md has no line `## [{version()}] - YEAR-MONTH-DAY`")
    try:
        day = datetime.date.fromisoformat(section.group(1))
    except ValueError:
        raise CheckError(f"CHANGELOG.md: {section.group(1)} is no day; write YEAR-MONTH-DAY") from None
    changes = re.findall(r"^- ", section.group(2), re.MULTILINE)
    require(changes, f"CHANGELOG.md: the section of {version()} lists no change")
    return f"{len(changes)} changes, {day}"


def contents(release):
    """Checks that there are an sdist and four wheels, and checks what is in each with wheel_contents.py."""
    printed = run(release.tools, ROOT / "release" / "wheel_contents.py", *release.files)
    require(len(release.files) == 5, f"there are {len(release.files)} files, not an sdist and four wheels")
    return " | ".join(printed.splitlines())


def twine(release):
    """Checks with twine that PyPI would accept the metadata and render the page."""
    run(release.tools, "-m", "twine", "check", "--strict", *release.files)
    return f"{len(release.files)} files passed"


def licences(release):
    """Checks that no source file has the text of another licence than Apache-2.0, and that NOTICE names LLVM."""
    tracked = run("git", "ls-files", "recu_jax", "configs", "setup.py").splitlines()
    foreign = [name for name in tracked if FOREIGN.search(_text(name))]
    require(not foreign, f"other licences in {', '.join(foreign)}; name them in NOTICE and in this check")
    require("LLVM" in _text("NOTICE") and "Apache License" in _text("LICENSE"), "NOTICE or LICENSE is incomplete")
    return f"{len(tracked)} files of Apache-2.0; with them XLA's headers and LLVM's libraries, compiled (NOTICE)"


def digits(release, python):
    """Checks that the installed release trains the digits from an empty folder and has kernels for this processor."""
    installed = release.installed(python)
    folder = release.work / f"digits{python}"
    folder.mkdir()
    run(installed, "-m", "recu_jax.main", "--config=digits", cwd=folder)
    metrics = folder / "runs" / "digits" / "metrics.jsonl"
    run(sys.executable, ROOT / ".ci" / "digits_are_learnt", metrics)
    report = "import jax; from recu_jax.ops import native; print(jax.__version__, *native.instruction_sets())"
    jax_version, *sets = run(installed, "-c", report, cwd=folder).split()
    require("portable" in sets, "the installed wheel has no compiled kernels")
    cpu = pathlib.Path("/proc/cpuinfo")
    avx2 = cpu.exists() and " avx2 " in cpu.read_text()
    require("avx2" in sets or not avx2, f"the kernels are for {', '.join(sets)}, and this processor has AVX2")
    top1 = json.loads(metrics.read_text().splitlines()[-1])["test_top1"]
    return f"test top-1 {top1:.1f}%, jax {jax_version}, kernels {' '.join(sets)}"


def imports(release):
    """Checks that `import recu_jax` is quick, and that its layers take little more processor time than flax.linen."""
    installed = release.installed(PYTHONS[1])

    def seconds(module):
        timed = f"import time; t = time.process_time(); import {module}; print(time.process_time() - t)"
        return float(run(installed, "-c", timed, cwd=release.work))

    pairs = [(seconds("recu_jax.layers"), seconds("flax.linen")) for _ in range(PAIRS + 1)][1:]
    ours, flax = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    root = statistics.median(seconds("recu_jax") for _ in range(PAIRS))
    said = f"recu_jax {root:.3f} s; layers {ours:.2f} s, flax.linen {flax:.2f} s, ratio {ratio:.3f} of {PAIRS} pairs"
    require(root <= MOST_SECONDS_OF_IMPORT and ratio <= MOST_TIMES_FLAX, f"imports are too slow: {said}")
    return said


def versions(release):
    """Tests the wheel for Linux on x86_64 with the oldest and the newest supported packages (`.ci/legs`)."""
    (wheel,) = (path for path in release.files if path.name.endswith("manylinux_2_17_x86_64.whl"))
    folder = release.work / "legs"
    folder.mkdir()
    lines = run(ROOT / ".ci" / "legs", wheel, folder).splitlines()
    return " | ".join(line for line in lines if re.search(r"jaxlib==| passed|skipped:", line))


def readme(release, number):
    """Runs the shell block `number` of the README in a clone of the last commit."""
    clone, python = release.clone
    block = run(clone / ".ci" / "readme_block", number, clone / "README.md")
    printed = run("bash", "-euo", "pipefail", "-c", block, cwd=clone, path=python.parent)
    return _summary(printed)


def slow_tests(release, *tests):
    """Runs `tests` in the clone, the slow ones too."""
    clone, python = release.clone
    run(python, "-m", "pip", "install", "-q", "-e", ".[test,docs]", cwd=clone)
    return _summary(run(python, "-m", "pytest", "-m", "slow or not slow", *tests, cwd=clone))


def _summary(printed):
    """Returns pytest's line of what passed, or else the last line."""
    lines = printed.splitlines()
    return next((line for line in reversed(lines) if re.search(r"\d passed", line)), lines[-1])


def _text(name):
    path = ROOT / name
    require(path.is_file(), f"there is no file {name}")
    return path.read_text(errors="replace")  # trained networks are no text


NOTEBOOK = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("tests/experiments/test_notebook*.py"))
CHECKS = {
    "tree": clean_tree,
    "version": same_version,
    "changelog": changelog,
    "licences": licences,
    "contents": contents,
    "twine": twine,
    "imports": imports,
    **{f"digits_{python}": functools.partial(digits, python=python) for python in PYTHONS},
    "versions": versions,
    "readme_1": functools.partial(readme, number=1),
    "readme_2": functools.partial(readme, number=2),
    "docs": lambda release: slow_tests(release, "tests/docs", "tests/test_readme.py"),
    "notebook": lambda release: slow_tests(release, *NOTEBOOK),
}
