"""Tests the comparison of binarizers: its pairs, its table, and that a recorded run is not repeated."""

import json
import statistics
import subprocess
import sys

import numpy as np
import pytest

from configs.digits import get_config
from experiments import compare_binarizers as compare
from recu_jax.binarizers import ACTIVATIONS, WEIGHTS
from recu_jax.config.fields import check_config


def test_every_binarizer_and_every_papers_pair_is_there():
    with_recu = {(p.weights, p.activations) for p in compare.PAIRS if not p.others}
    assert {(w, "recu") for w in WEIGHTS} | {("recu", a) for a in ACTIVATIONS} <= with_recu
    assert len({p.name for p in compare.PAIRS}) == len(compare.PAIRS)
    for pair in compare.PAIRS:
        config = get_config()
        config.update(pair.fields)
        check_config(config)


def rows_of(name, values, dataset="digits"):
    fields = {"weight_binarizer": "recu", "activation_binarizer": "ede", "alpha": "learned"}
    return [
        {"dataset": dataset, "name": name, "seed": seed, "epochs": 2, "fields": fields, "test_top1": [9.0, value]}
        for seed, value in enumerate(values)
    ]


def test_the_table_has_means_and_deviations():
    rows = rows_of("worse", [80.0, 85.0, 81.5]) + rows_of("better", [90.0, 92.5]) + rows_of("other", [5.0], "cifar")
    lines = compare.table(rows).splitlines()
    assert lines[0] == "Test top-1 (%) after the last epoch: digits, 2 epochs."
    assert lines[4] == "| better | `recu` | `ede` | alpha=learned | 91.25 | 1.77 | 90.00, 92.50 |"
    deviation = statistics.stdev([80.0, 85.0, 81.5])
    assert lines[5] == f"| worse | `recu` | `ede` | alpha=learned | 82.17 | {deviation:.2f} | 80.00, 85.00, 81.50 |"
    assert lines[-1] == "| other | `recu` | `ede` | alpha=learned | 5.00 |  | 5.00 |"


def test_what_is_recorded_is_not_run_again(tmp_path):
    """All runs of a group are recorded, so the command trains nothing. The prefix `false` would make training fail."""
    pytest.importorskip("matplotlib")
    rows = [
        {"dataset": "digits", "name": p.name, "seed": s, "epochs": 3, "fields": p.fields, "test_top1": [50.0 + s] * 3}
        for s in range(2)
        for p in compare.PAIRS
        if p.group == "weights"
    ]
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, compare.__file__, "--seeds=2", "--epochs=3", "--groups", "weights", "--prefix=false"]
    done = subprocess.run(
        [*command, f"--results={tmp_path}", f"--workdir={tmp_path}/runs"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "table.md").read_text().count("| 50.50 | 0.71 | 50.00, 51.00 |") == len(WEIGHTS) - 1
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == len(rows)


def test_the_subset_is_the_first_images_of_each_class(tmp_path, monkeypatch):
    r = np.random.default_rng(0)
    images, labels = r.integers(0, 256, (500, 2, 2, 3), np.uint8), r.integers(0, 10, 500).astype(np.int32)
    full = compare.data.Dataset(images[:300], labels[:300], images[300:], labels[300:], 10, (0.5,) * 3, (1.0,) * 3)
    monkeypatch.setattr(compare.data, "load", lambda *_: full)
    monkeypatch.setattr(compare, "TRAIN_IMAGES", 5)
    monkeypatch.setattr(compare, "TEST_IMAGES", 2)
    arguments = compare.recipe("cifar10_subset", tmp_path, None)
    assert f"--config.data_dir={tmp_path / 'cifar10_subset.npz'}" in arguments
    with np.load(tmp_path / "cifar10_subset.npz") as file:
        assert np.bincount(file["train_labels"]).tolist() == [5] * 10
        assert np.bincount(file["test_labels"]).tolist() == [2] * 10
        for label in range(10):
            of_class = full.train_images[full.train_labels == label][:5]
            np.testing.assert_array_equal(file["train_images"][file["train_labels"] == label], of_class)
