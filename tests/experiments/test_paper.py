"""Tests `experiments.paper.sweep`: it finds missing runs, and its table agrees with formulas written out here."""

import json

import numpy as np
import pytest
from scipy import stats

pytest.importorskip("matplotlib").use("agg")
from experiments.paper import flips, sweep  # noqa: E402
from recu_jax.config.fields import base_config, plain  # noqa: E402

EXPERIMENT = sweep.Experiment(
    name="made_up",
    title="Made up",
    variants={"the recipe": {}, "slow": {"learning_rate": 0.01}, "same": {"seed": 5}},
    measures={"flipped (%)": sweep.mean_over_epochs("flipped"), "epochs to 60%": flips.epochs_to(60)},
)
TOP1 = {"": (70.0, 71.0, 72.5), "learning_rate=0.01": (50.0, 61.0, 52.0), "seed=5": (70.5, 71.5, 70.0)}


@pytest.fixture
def chosen(tmp_path):
    return sweep.arguments_of(EXPERIMENT, [f"--runs={tmp_path / 'runs'}", f"--out={tmp_path / 'out'}", "--epochs=2"])


def write_runs(chosen, seeds, epochs=2):
    for fields, accuracies in zip(EXPERIMENT.variants.values(), TOP1.values(), strict=True):
        for seed in seeds:
            folder = sweep.workdir_of(chosen, fields, seed)
            folder.mkdir(parents=True)
            metrics, diagnostics = [], []
            for epoch in range(1, epochs + 1):
                at = {"epoch": epoch, "step": 10 * epoch}
                metrics.append(at | {"test_top1": accuracies[seed] - 20 * (2 - epoch), "train_loss": 1.0})
                layers = {"a": {"flipped": 0.1 * epoch}, "b": {"flipped": 0.3 * epoch}}
                diagnostics.append(at | {"seconds": 3.0, "layers": layers})
            start = {"versions": {"jax": "1"}, "hardware": {"cores": 2, "processor": "P"}}
            record = {"config": plain(base_config()) | fields | {"seed": seed}, "starts": [start]}
            (folder / "run.json").write_text(json.dumps(record))
            for name, rows in (("metrics", metrics), ("diagnostics", diagnostics)):
                (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def no_training(*_):
    raise AssertionError("nothing is to be trained")


def test_the_table_and_what_is_kept(chosen, tmp_path, monkeypatch):
    write_runs(chosen, range(3))
    monkeypatch.setattr(sweep, "train", no_training)
    monkeypatch.setattr(sweep, "arguments_of", lambda experiment, argv: chosen)
    sweep.run(EXPERIMENT)
    folder = tmp_path / "out" / "made_up" / "digits"
    text = (folder / "README.md").read_text()
    rows = {cells[1].strip(): [c.strip() for c in cells[2:-1]] for cells in (
        line.split("|") for line in text.splitlines() if line.startswith("| ")
    )}  # fmt: skip
    recipe, slow, same = (np.array(v) for v in TOP1.values())
    assert rows["the recipe"] == [f"{recipe.mean():.2f} +- {recipe.std(ddof=1):.2g}"] * 2 + [
        "1 +- 0", "30.00 +- 0", "2 +- 0", "",
    ]  # fmt: skip
    assert rows["slow"][4] == "2 (1 of 3)"
    for name, values, said in (("slow", slow, "more than noise"), ("same", same, "within the noise")):
        p = stats.ttest_ind(recipe, values, equal_var=False).pvalue
        assert rows[name][5] == f"{values.mean() - recipe.mean():+.2f}, p {p:.2f}: {said}"
    lines = [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]
    assert len(lines) == 18 and {line["variant"] for line in lines} == set(EXPERIMENT.variants)
    assert lines[1]["flipped"] == pytest.approx(0.4) and (folder / "figure.png").stat().st_size > 10_000


def test_only_what_is_missing_is_trained_and_half_a_seed_is_left_out(chosen, monkeypatch):
    write_runs(chosen, (0, 1))
    unfinished = sweep.workdir_of(chosen, {"learning_rate": 0.01}, 1) / "metrics.jsonl"
    unfinished.write_text(unfinished.read_text().splitlines()[0] + "\n")
    trained = []
    monkeypatch.setattr(sweep, "train", lambda chosen, fields, seed: trained.append((seed, fields)))
    chosen.most_runs = 2
    found = sweep.complete(EXPERIMENT, chosen)
    assert trained == [(1, {"learning_rate": 0.01}), (2, {})]
    assert [[run.config["seed"] for run in runs] for runs in found.values()] == [[0], [0], [0]]


def test_experiments_share_runs(chosen):
    a, b = (sweep.workdir_of(chosen, fields, 1) for fields in ({}, {"tau_min": 0.9, "tau_max": 0.9}))
    assert (a.name, b.name) == ("recipe-1", "tau_max=0.9,tau_min=0.9-1") and a.parent.name == "digits-2"
