"""Checks that the links, files and names in the documentation exist."""

import ast
import functools
import importlib
import inspect
import pathlib
import re

import pytest

from tests.docs.pages import CODE, DOCS, FENCE, NAMES, PAGES, prose
from tests.support import ROOT


def slug(heading: str) -> str:
    """Returns the anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(page: pathlib.Path) -> set[str]:
    """Returns the anchors of a page's headings."""
    return {slug(h.replace("`", "")) for h in re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)}


@pytest.mark.parametrize("name", NAMES)
def test_links(name):
    page = DOCS / name
    text = CODE.sub("", prose(page)) if name.startswith("api/") else prose(page)
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
    for code in CODE.findall(prose(DOCS / name)):
        if re.fullmatch(rf"({'|'.join(_ROOTS)})(/[\w.\-]+)+/?", code) or re.fullmatch(r"[A-Z]+\.md", code):
            assert (ROOT / code).exists(), f"{name} names {code}, which is not there"


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
    for code in CODE.findall(re.sub(r"\{[\w:]+\}`[^`]+`", "", text)):
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
