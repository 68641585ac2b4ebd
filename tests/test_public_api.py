"""Compares the public names and signatures with the kept list, so that no change of them goes unseen."""

import difflib
import inspect

import recu_jax
from tests.support import public_api

RENEW = "python -m tests.support.public_api"


def test_names_and_signatures_are_those_of_the_kept_list():
    kept, now = public_api.KEPT.read_text(), public_api.listing()
    changed = difflib.unified_diff(kept.splitlines(), now.splitlines(), "kept", "now", n=0, lineterm="")
    assert kept == now, f"the public API changed; see Deprecation in CONTRIBUTING.md, then type: {RENEW}\n" + "\n".join(
        changed
    )


def test_the_list_has_what_python_has():
    lines = public_api.listing().splitlines()
    listed = {line.split()[0] for line in lines[: lines.index("")]} - {"recu_jax"}
    assert listed == {f"{name}" for name in recu_jax.__all__} | {"__version__:"}
    (line,) = (line.strip() for line in lines if line.strip().startswith("exponential_tau("))
    assert list(inspect.signature(recu_jax.exponential_tau).parameters) == [
        part.partition(":")[0] for part in line[len("exponential_tau(") :].partition(")")[0].split(", ") if part != "*"
    ]
