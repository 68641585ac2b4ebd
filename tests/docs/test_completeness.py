"""Checks that the documentation has all that it must have: binarizers, measures, errors, transcripts, commands."""

import re

import pytest

from recu_jax import binarizers
from recu_jax.__main__ import COMMANDS
from tests.docs.pages import DOCS, PAGES, run_blocks
from tests.support import ROOT


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
    source = " ".join(p.read_text() for p in (ROOT / "recu_jax").rglob("*.py"))
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
    kept = ROOT / "experiments" / "results" / "digits"
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
    for file in (ROOT / "configs").glob("*.py"):
        assert f"configs/{file.name}" in text
