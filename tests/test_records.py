"""What a run writes down: rows that a resumed run takes back, and the same numbers as TensorBoard events."""

import json
import struct

import numpy as np
from tensorboardX.proto.event_pb2 import Event

from recu_jax.records import EpochRecords, read_epochs


def row(epoch, top1=50.0):
    return {"epoch": epoch, "step": 10 * epoch, "test_top1": top1, "tau": 0.9}


def measured(epoch):
    counts = np.zeros(64, int)
    counts[30:34] = (1, 5, 6, epoch)
    layer = {"clipped": 0.25, "quantile": None, "scale": 2.0, "histogram": counts.tolist()}
    return {"epoch": epoch, "step": 10 * epoch, "layers": {"layer1_0/conv1": layer}}


def events(folder):
    """Tags, steps and values of all events: records framed by length and checksums."""
    found = {}
    for path in sorted(folder.glob("events.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                found[value.tag, event.step] = value
    return found


def test_tensorboard_has_the_same_scalars_and_histograms(tmp_path):
    kept = EpochRecords(tmp_path)
    for epoch in (1, 2):
        kept.write(row(epoch), measured(epoch))
    kept.close()
    found = events(tmp_path / "tensorboard")
    assert {tag for tag, _ in found} == {
        "epoch", "test_top1", "tau", "clipped/layer1_0/conv1", "scale/layer1_0/conv1", "weights/layer1_0/conv1",
    }  # fmt: skip
    assert found["clipped/layer1_0/conv1", 20].simple_value == 0.25
    histogram = found["weights/layer1_0/conv1", 20].histo
    assert histogram.num == 14
    # The bin from 0 to b / 4, and what lies in it.
    limits, counts = np.array(histogram.bucket_limit), np.array(histogram.bucket)
    assert counts[limits == 0.5] == 6 and counts[limits == 0.0] == 5 and counts.sum() == 14


def test_a_resumed_run_takes_back_both_files_rows(tmp_path):
    first = EpochRecords(tmp_path, tensorboard=False)
    for epoch in (1, 2, 3):
        first.write(row(epoch), measured(epoch))
    with (tmp_path / "diagnostics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "st')  # killed
    again = EpochRecords(tmp_path, start_epoch=3, tensorboard=False)
    again.write(row(3, 70.0), measured(9) | {"epoch": 3})
    assert read_epochs(tmp_path / "metrics.jsonl") == [row(1), row(2), row(3, 70.0)] == again.rows
    rows = [json.loads(line) for line in (tmp_path / "diagnostics.jsonl").read_text().splitlines()]
    assert rows == [measured(1), measured(2), measured(9) | {"epoch": 3}] == again.diagnostics


def test_without_diagnostics_there_is_no_file_of_them(tmp_path):
    kept = EpochRecords(tmp_path, tensorboard=False)
    kept.write(row(1))
    assert not (tmp_path / "diagnostics.jsonl").exists() and len(read_epochs(tmp_path / "metrics.jsonl")) == 1
