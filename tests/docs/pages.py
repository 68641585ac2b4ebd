"""Reads the pages of the documentation: their blocks of code, and their text without these."""

import pathlib
import re

from tests.support import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.md") if not p.relative_to(DOCS).parts[0].startswith("_"))
NAMES = [str(p.relative_to(DOCS)) for p in PAGES]
# This line, followed by the reason, stands before a block that is not executed.
NOT_RUN = "% not run:"
FENCE = re.compile(r"^(`{3,}|:{3,}).*?^\1$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


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
    return FENCE.sub("", page.read_text())


def run_blocks(page: pathlib.Path) -> dict:
    """Executes the Python blocks of a page in one namespace. Returns the namespace."""
    namespace = {"__name__": page.stem}
    for line, block, before in blocks(page, "python"):
        if before.startswith(NOT_RUN):
            assert before.removeprefix(NOT_RUN).strip(), f"{page}:{line} says no reason"
            continue
        exec(compile("\n" * line + block, str(page), "exec"), namespace)
    return namespace
