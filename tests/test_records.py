"""Tests the records of a run, and that a resumed run removes rows after its checkpoint."""

import json

import numpy as np

from recu_jax.records import EpochRecords, read_epochs


def row(epoch, top1=50.0):
    return {"epoch": epoch, "step": 10 * epoch, "test_top1": top1, "tau": 0.9}


def measured(epoch):
    counts = np.zeros(64, int)
    counts[30:34] = (1, 5, 6, epoch)
    layer = {"clipped": 0.25, "quantile": None, "scale": 2.0, "histogram": counts.tolist()}
    return {"epoch": epoch, "step": 10 * epoch, "layers": {"layer1_0/conv1": layer}}


def test_a_resumed_run_takes_back_both_files_rows(tmp_path):
    first = EpochRecords(tmp_path)
    for epoch in (1, 2, 3):
        first.write(row(epoch), measured(epoch))
    with (tmp_path / "diagnostics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "st')  # the process was killed here
    again = EpochRecords(tmp_path, start_epoch=3)
    again.write(row(3, 70.0), measured(9) | {"epoch": 3})
    assert read_epochs(tmp_path / "metrics.jsonl") == [row(1), row(2), row(3, 70.0)] == again.rows
    rows = [json.loads(line) for line in (tmp_path / "diagnostics.jsonl").read_text().splitlines()]
    assert rows == [measured(1), measured(2), measured(9) | {"epoch": 3}] == again.diagnostics


def test_without_diagnostics_there_is_no_file_of_them(tmp_path):
    kept = EpochRecords(tmp_path)
    kept.write(row(1))
    assert not (tmp_path / "diagnostics.jsonl").exists() and len(read_epochs(tmp_path / "metrics.jsonl")) == 1
