"""Checks the documentation: its programs run, its commands parse, all that it names exists, and the site builds."""

import ast
import functools
import importlib
import inspect
import pathlib
import re
import shlex
import subprocess
import sys
import zlib

import pytest

import recu_jax
from recu_jax import binarizers, config
from recu_jax.__main__ import COMMANDS
from recu_jax.commands import arguments
from recu_jax.config.fields import check_config
from recu_jax.errors import UserError

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.md") if not p.relative_to(DOCS).parts[0].startswith("_"))
NAMES = [str(p.relative_to(DOCS)) for p in PAGES]
# This line, followed by the reason, stands before a block that is not executed.
NOT_RUN = "% not run:"
_FENCE = re.compile(r"^(`{3,}|:{3,}).*?^\1$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


def blocks(page: pathlib.Path, language: str) -> list[tuple[int, str, str]]:
    """Returns the line number, content and preceding line of each block of a language."""
    found, lines = [], page.read_text().splitlines()
    for i, line in enumerate(lines):
        if line == f"```{language}":
            end = lines.index("```", i)
            found.append((i + 1, "\n".join(lines[i + 1 : end]) + "\n", lines[i - 1]))
    return found


def prose(page: pathlib.Path) -> str:
    """Returns a page without its blocks."""
    return _FENCE.sub("", page.read_text())


def run_blocks(page: pathlib.Path) -> dict:
    """Executes the Python blocks of a page in one namespace. Returns the namespace."""
    namespace = {"__name__": page.stem}
    for line, block, before in blocks(page, "python"):
        if before.startswith(NOT_RUN):
            assert before.removeprefix(NOT_RUN).strip(), f"{page}:{line} says no reason"
            continue
        exec(compile("\n" * line + block, str(page), "exec"), namespace)
    return namespace


WITH_PYTHON = [name for name, page in zip(NAMES, PAGES, strict=True) if blocks(page, "python")]


# These pages train a network.
SLOW = {"deploy.md", "own_model.md", "train.md", "weights.md"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in WITH_PYTHON])
def test_python_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_blocks(DOCS / name)


def test_pages_have_programs():
    assert {"own_model.md", "deploy.md", "binarizers.md", "train.md", "weights.md"} <= set(WITH_PYTHON)


# Commands


class _Parsed(Exception):  # noqa: N818  (nothing is wrong)
    pass


def check_arguments(command: str, given: list[str], monkeypatch) -> None:
    """Raises an error if the command would refuse the arguments. Does not run the command."""
    if command not in ("train", "eval", "summary", "main"):
        parse = arguments.ArgumentParser.parse_args

        def stop(self, *args):
            parse(self, *args)
            raise _Parsed

        monkeypatch.setattr(arguments.ArgumentParser, "parse_args", stop)
        module = importlib.import_module(f"recu_jax.commands.{COMMANDS[command][0]}")
        with pytest.raises(_Parsed):
            module.main(given)
        return
    options = dict(argument.removeprefix("--").partition("=")[::2] for argument in given)
    fields = {k.removeprefix("config."): v for k, v in options.items() if k.startswith("config.")}
    known = help_of(command)
    for option in options.keys() - {f"config.{field}" for field in fields}:
        assert f"--{option} " in known, f"{command} has no --{option}"
    made = config.load(options["config"], **{field: _value(text) for field, text in fields.items()})
    check_config(made)


def _value(text):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


@functools.cache
def help_of(command: str) -> str:
    """Returns what a command prints with `--help`."""
    module = ["recu_jax.main"] if command == "main" else ["recu_jax", command]
    return subprocess.run(
        [sys.executable, "-m", *module, "--help"], capture_output=True, text=True, check=True, cwd=REPOSITORY
    ).stdout


_COMMAND = re.compile(r"(?<![\w./-])(recu|python -m recu_jax(?:\.main)?)(?=\s)([^;&|\"\n]*)")


def commands() -> list[tuple[str, str, list[str]]]:
    """Returns page, command and arguments of each recu_jax command in the shell blocks of all pages."""
    found = []
    for name, page in zip(NAMES, PAGES, strict=True):
        text = "\n".join(block for _, block, _ in blocks(page, "sh")).replace("\\\n", " ")
        for program, rest in _COMMAND.findall(text):
            given = shlex.split(rest, comments=True)
            command = "main" if program.endswith(".main") else given.pop(0)
            found.append((name, command, given))
    return found


@pytest.mark.parametrize("page, command, given", commands())
def test_command(page, command, given, monkeypatch, tmp_path):
    monkeypatch.chdir(REPOSITORY)
    # Commands in the pages name my_module.py, the user's own module. Python blocks in the pages have its text.
    own = [block for p in PAGES for _, block, _ in blocks(p, "python") if block.startswith("# my_module.py")]
    (tmp_path / "my_module.py").write_text("\n".join(own))
    monkeypatch.syspath_prepend(tmp_path)
    assert command == "main" or command in COMMANDS
    check_arguments(command, given, monkeypatch)


@pytest.mark.parametrize(
    "command, given",
    [
        ("train", ["--config=configs/digits.py", "--nothing=1"]),
        ("train", ["--config=configs/digits.py", "--config.epoch=1"]),
        ("train", ["--config=configs/digits.py", "--config.optimizer=sdg"]),
        ("train", ["--config=configs/digit.py"]),
        ("export", ["runs/digits", "--out=a", "--format=tflite"]),
        ("predict", ["digits.recu"]),
    ],
)
def test_wrong_commands_are_found(command, given, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises((AssertionError, UserError, SystemExit)):
        check_arguments(command, given, monkeypatch)


def test_options_in_prose():
    """Checks that `--config.FIELD` and `config.FIELD` name fields that exist."""
    fields = set(config.base_config())
    for page in PAGES:
        said = " ".join(_CODE.findall(prose(page)))
        for field in re.findall(r"(?<![\w./])(?:--)?config\.([a-z]\w*)", said):
            assert field in fields, f"{page.name}: config has no field {field}"


def test_scripts_and_extras():
    setup = (REPOSITORY / "setup.py").read_text()
    experiments = "".join(p.read_text() for p in (REPOSITORY / "experiments").rglob("*.py"))
    for page in PAGES:
        text = "\n".join(block for _, block, _ in blocks(page, "sh")).replace("\\\n", " ")
        for script, rest in re.findall(r"^python ((?!-[mc])\S+)(.*)$", text, re.MULTILINE):
            assert (REPOSITORY / script).is_file(), f"{page.name}: there is no {script}"
            for option in re.findall(r"--(\w+)", rest.replace("--help", "")):
                assert f"--{option}" in experiments, f"{page.name}: {script} has no --{option}"
        for extras in re.findall(r"-e '\.\[(\w+)\]'", page.read_text()):
            assert extras == "NAME" or f'"{extras}": [' in setup or f'"{extras}": ' in setup, f"{page.name}: {extras}"


# Links, files, names


def slug(heading: str) -> str:
    """Returns the anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(page: pathlib.Path) -> set[str]:
    """Returns the anchors of a page's headings."""
    return {slug(h.replace("`", "")) for h in re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.MULTILINE)}


@pytest.mark.parametrize("name", NAMES)
def test_links(name):
    page = DOCS / name
    text = _CODE.sub("", prose(page)) if name.startswith("api/") else prose(page)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    targets += re.findall(r"^```\{include\} (\S+)", page.read_text(), re.MULTILINE)
    for target in targets:
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.is_file(), f"{name} links to {target}, which is not there"
        if anchor:
            assert anchor in anchors(path), f"{name} links to {target}, a heading that is not there"


_ROOTS = ("recu_jax", "experiments", "configs", "tests", "docs")


@pytest.mark.parametrize("name", NAMES)
def test_files(name):
    for code in _CODE.findall(prose(DOCS / name)):
        if re.fullmatch(rf"({'|'.join(_ROOTS)})(/[\w.\-]+)+/?", code) or re.fullmatch(r"[A-Z]+\.md", code):
            assert (REPOSITORY / code).exists(), f"{name} names {code}, which is not there"


def resolve(path: str):
    """Returns the object of a dotted name. Raises AttributeError or ImportError if there is none."""
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError as error:
            if error.name is not None and not path.startswith(error.name):
                raise
            continue
        return functools.reduce(getattr, parts[length:], found)
    raise ImportError(path)


_OTHERS = {"nn": "flax.linen", "nnx": "flax.nnx", "jnp": "jax.numpy", "np": "numpy"}
_WHERE = (
    "recu_jax",
    "recu_jax.binarizers",
    "recu_jax.config",
    "recu_jax.functional",
    "recu_jax.nnx",
    "recu_jax.layers",
)
# Names in the reader's own program. These are not looked up.
_OWN = {"get_config", "model", "layer"}


def find(name: str):
    """Returns the object that a name in the pages means. The name may lack its module."""
    first, _, rest = name.partition(".")
    candidates = [f"{_OTHERS[first]}.{rest}"] if first in _OTHERS else [f"{where}.{name}" for where in _WHERE]
    for candidate in [*candidates, name]:
        try:
            return resolve(candidate)
        except (AttributeError, ImportError):
            continue
    raise NameError(name)


def check_names(text: str) -> None:
    """Raises an error if a role, dotted name, call or keyword argument in a text names what does not exist."""
    for role in re.findall(r"\{py:\w+\}`([^`]+)`", text):
        target = re.search(r"<(.+)>$", role)
        resolve((target[1] if target else role).lstrip("~"))
    for code in _CODE.findall(re.sub(r"\{[\w:]+\}`[^`]+`", "", text)):
        if re.fullmatch(r"recu_jax(\.\w+)+", code):
            resolve(code)
        call = re.fullmatch(r"([A-Za-z_][\w.]*)\((.*)\)", code)
        if call and call[1].split(".")[0] not in _OWN:
            named = find(call[1])
            keywords = {k.arg for k in ast.parse(code, mode="eval").body.keywords} if "..." not in call[2] else set()
            assert keywords <= set(inspect.signature(named).parameters), f"{code} has arguments that are not there"


@pytest.mark.parametrize("name", NAMES)
def test_names(name):
    check_names(prose(DOCS / name))


@pytest.mark.parametrize(
    "text",
    ["`recu_jax.no_such`", "{py:func}`~recu_jax.tau.no_such`", "`no_such()`", "`weights.ReCU(centre=True)`"],
)
def test_wrong_names_are_found(text):
    with pytest.raises((AttributeError, ImportError, NameError, AssertionError)):
        check_names(text)


def test_documented_modules():
    for page in PAGES:
        for module in re.findall(r"^\.\. automodule:: (\S+)", page.read_text(), re.MULTILINE):
            importlib.import_module(module)


# Completeness


def test_every_binarizer_is_drawn():
    drawn = set(re.findall(r"\{binarizer-plot\} (\S+)", (DOCS / "binarizers.md").read_text()))
    known = {f"weights.{name}" for name in binarizers.WEIGHTS} | {
        f"activations.{name}" for name in binarizers.ACTIVATIONS
    }
    assert drawn == known


@pytest.mark.slow
def test_every_measure_is_explained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = DOCS / "weights.md"
    named = run_blocks(page)["named"]
    terms = re.findall(r"^(`\w+`(?:, `\w+`)*)\n: ", page.read_text(), re.MULTILINE)
    explained = {name for term in terms for name in re.findall(r"`(\w+)`", term)}
    of_inputs = {"in_window", "positive_signs", "constant_channels", "nan_inputs"}
    assert explained == set(next(iter(named.values()))) | of_inputs


def test_the_likeliest_troubles_come_first():
    """In this order: cannot learn, no tau, files in buckets, other images, weights of another model, more epochs."""
    text = (DOCS / "trouble.md").read_text()
    first, *_ = re.findall(r"^## (.+)$", text, re.MULTILINE)
    terms = re.findall(r"^(.+)\n: (.+(?:\n  .+)*)", text.partition(f"## {first}\n")[2], re.MULTILINE)[:6]
    words = ("cannot learn", "without tau", "on this machine", "was trained on", "state_dict", "planned epochs")
    ways_out = ("check_model", "with_tau", "gcsfuse", "`val`", "fresh_head", "init_from")
    for (line, text), word, way_out in zip(terms, words, ways_out, strict=True):
        assert word in line and way_out in text


def test_common_errors_are_those_of_the_code():
    source = " ".join(p.read_text() for p in (REPOSITORY / "recu_jax").rglob("*.py"))
    # The literals of a message may be split over lines.
    source = re.sub(r'" *\n\s*f?"', "", source)
    text = (DOCS / "trouble.md").read_text()
    listed = [text.partition(f"## {title}")[2].partition("\n## ")[0] for title in ("First of all", "Common errors")]
    terms = [term for section in listed for term in re.findall(r"^(.+)\n: ", section, re.MULTILINE)]
    assert len(terms) > 11
    for term in terms:
        for part in filter(None, (piece.strip(" ,") for piece in term.split("..."))):
            assert part in source, part


def test_the_transcripts_of_the_first_run_are_kept_logs():
    """Each block is a kept log, word for word; `...` stands for lines that are left out."""
    kept = REPOSITORY / "experiments" / "results" / "digits"
    section = (DOCS / "start.md").read_text().partition("## What you see\n")[2].partition("\n## ")[0]
    shown = re.findall(r"^```text\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    for text, log in zip(shown, ("terminal.log", "plain.log"), strict=True):
        kept_text, end = (kept / log).read_text(), 0
        for part in text.split("...\n"):
            begin = kept_text.find(part, end)
            assert begin >= 0 and kept_text[:begin].endswith(("", "\n")[begin > 0]), f"not in {log}:\n{part}"
            end = begin + len(part)


def test_every_command_and_config_is_mentioned():
    text = "\n".join(page.read_text() for page in PAGES)
    for command in COMMANDS:
        assert f"recu {command}" in text
    for file in (REPOSITORY / "configs").glob("*.py"):
        assert f"configs/{file.name}" in text


@pytest.mark.slow
def test_site_builds(tmp_path):
    """Builds every page and every plot, with warnings as errors. This takes a minute."""
    for package in ("sphinx", "myst_parser", "furo", "sphinx_copybutton", "matplotlib"):
        pytest.importorskip(package, reason="needs pip install -e '.[docs]'")
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", "-d", tmp_path / "trees", DOCS, tmp_path / "site"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert built.returncode == 0, built.stderr
    for page in PAGES:
        assert (tmp_path / "site" / page.relative_to(DOCS).with_suffix(".html")).is_file()
    # Sphinx's inventory of all documented names: four lines of text, then the compressed names.
    *_, names = (tmp_path / "site" / "objects.inv").read_bytes().split(b"\n", 4)
    documented = {line.split()[0].rpartition(".")[2] for line in zlib.decompress(names).decode().splitlines()}
    assert set(recu_jax.__all__) - documented == set()
