"""Real processes, really killed: `experiments/kill_and_resume.py` with few moments."""

import pytest

from experiments.kill_and_resume import differences, final_state, kill_and_resume, run_to_end

SHORT = ("--config.epochs=4",)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    cache = folder / "cache"
    run_to_end(folder / "first", cache, SHORT)
    seconds = run_to_end(folder / "undisturbed", cache, SHORT)
    return folder, cache, seconds, final_state(folder / "undisturbed")


@pytest.mark.parametrize("part", [0.5, 0.75, 0.95])
def test_a_killed_run_resumes_to_the_same_bits(undisturbed, part):
    folder, cache, seconds, expected = undisturbed
    workdir = folder / f"killed_{part}"
    kill_and_resume(workdir, cache, part * seconds, SHORT)
    assert differences(expected, final_state(workdir)) == []
    rows = (workdir / "metrics.jsonl").read_text().splitlines()
    assert [f'"epoch": {e},' in row for e, row in enumerate(rows, 1)] == [True] * 4


def test_the_comparison_sees_one_bit(undisturbed):
    expected = undisturbed[-1]
    path = next(p for p, a in expected.items() if a.ndim == 4)
    changed = dict(expected)
    changed[path] = expected[path].copy()
    changed[path].view("uint32").flat[0] ^= 1
    assert differences(expected, changed) == [path]
