"""Gives up to 250 damaged and random files to each reader, as `fuzz.py` does. Tests the faults that fuzzing found."""

import contextlib
import importlib.util
import json
import pickle

import numpy as np
import pytest

from recu_jax import UserError
from recu_jax import records as logbook
from recu_jax.commands.arguments import fail
from recu_jax.data import images, npz
from recu_jax.data.array_records import example_fields
from recu_jax.data.images import CorruptImage, decode
from recu_jax.data.transform import Transform
from tests.robustness.fuzzing import broken, samples
from tests.robustness.fuzzing.cases import OUTCOMES, REFUSED, RIGHT, run_cases
from tests.robustness.fuzzing.targets import TARGETS
from tests.support import bad_files as bad

CASES = 250


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_damaged_bytes_are_a_right_value_or_refused(target):
    _, share, needs_torch = TARGETS[target]
    if needs_torch and importlib.util.find_spec("torch") is None:
        pytest.skip("pip install torch")
    cases = round(CASES * share)
    outcome = run_cases(target, cases)
    assert outcome.bad == []
    assert outcome.counts.keys() <= set(OUTCOMES) and outcome.counts.total() == cases
    assert outcome.counts[RIGHT] and (outcome.counts[REFUSED] or target == "metrics")


@pytest.mark.slow
@pytest.mark.parametrize("failure", broken.TARGETS)
def test_a_reader_that_fails_is_seen(failure):
    outcome = run_cases(failure, 8, seconds=2)
    number, how, _ = outcome.bad[0]
    assert (number, how) == (3, failure)
    # A crash or hang ends the process. The next process continues after the case, and fails at its own fourth case.
    assert outcome.counts.total() == 8 and outcome.counts[RIGHT] == 8 - len(outcome.bad)


# The rest tests faults that fuzzing, or reading the code, has found.


def test_a_record_is_refused_where_it_ends_too_early_or_never():
    whole = samples.examples()[0]
    assert {name for name, _ in example_fields(whole)} == {"image", "file_name", "label"}
    for keep in range(len(whole)):
        with pytest.raises(CorruptImage):
            dict(example_fields(whole[:keep] or b"\x0a"))
    with pytest.raises(CorruptImage, match="a number without an end"):
        dict(example_fields(b"\xff" * 10**6))  # once took minutes: a number of a million bytes


def field(number, content):
    return bytes([number << 3 | 2, len(content)]) + content


@pytest.mark.parametrize(
    "example",
    [
        b"\x08\x05",  # a number for the features
        field(1, b"\x08\x05"),  # a number for a feature
        field(
            1, field(1, field(1, b"\xff\xfe") + field(2, field(3, field(1, b"\1"))))
        ),  # a name that is not valid UTF-8
        field(1, field(1, field(1, b"image") + field(2, field(1, b"\x08\x05")))),  # a number for the bytes
        field(1, field(1, field(1, b"label") + field(2, field(3, field(1, b""))))),  # an empty packed list: no label
        b"\x0b",  # a wire type that is no longer used
    ],
)
def test_messages_that_are_no_example(example):
    with pytest.raises(CorruptImage):
        dict(example_fields(example))


@pytest.mark.parametrize("label", [10, 2**40])
def test_a_label_beyond_the_classes_is_a_corrupt_record(tmp_path, label):
    from array_record.python.array_record_module import ArrayRecordWriter

    from recu_jax.data.array_records import ArrayRecords

    number = bytes([label >> 7 * i & 127 | 128 for i in range(5)]) + bytes([label >> 35])
    features = [(b"image", field(1, field(1, b"pixels"))), (b"label", field(3, field(1, number)))]
    writer = ArrayRecordWriter(str(tmp_path / "a"), "group_size:1")
    writer.write(field(1, b"".join(field(1, field(1, name) + field(2, value)) for name, value in features)))
    writer.close()
    shards = [(str(tmp_path / "a"), 0, 1)]
    assert ArrayRecords("train", shards, 2**63).read(0) == (b"pixels", label)
    with pytest.raises(CorruptImage, match=f"the label {label}; classes are 0 to 9"):
        ArrayRecords("train", shards, 10).read(0)


@pytest.mark.parametrize("kind", [".jpg", ".png", ".webp", ".bmp"])
def test_a_size_that_the_bytes_cannot_hold(kind):
    import cv2

    data = bad.photograph(40, kind)
    if kind == ".jpg":
        data = bad.of_stated_size(data, 10_000)  # 2 KB that state 300 MB
    elif kind == ".png":
        data = data[:16] + (20_000).to_bytes(4, "big") * 2 + data[24:]
    elif kind == ".bmp":
        data = data[:18] + (10_000).to_bytes(4, "little") * 2 + data[26:]
    else:  # lossy WebP has 14 bits for each side
        data = cv2.imencode(kind, np.zeros((40, 40, 3), np.uint8), [cv2.IMWRITE_WEBP_QUALITY, 80])[1].tobytes()
        data = data[:26] + (16_000).to_bytes(2, "little") * 2 + data[30:]
    with pytest.raises(CorruptImage, match="pixels, more than its"):
        decode(data)


@pytest.mark.parametrize("kind", [".png", ".webp", ".bmp"])
@pytest.mark.parametrize("height,width", [(1, 1), (3, 200), (500, 7)])
def test_the_stated_size_is_the_decoded_one(kind, height, width):
    import cv2

    image = np.full((height, width, 3), 100, np.uint8)
    for quality in (80, 101):  # lossy and lossless, for which WebP has two formats
        data = cv2.imencode(kind, image, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()
        assert images.stated_size(data) == (height, width) == decode(data).shape[:2]


def test_a_png_whose_chunk_states_to_be_longer_than_the_file():
    data = bad.photograph(40, ".png")
    at = data.index(b"IDAT") - 4
    with pytest.raises(CorruptImage, match="a PNG without its end"):
        decode(data[:at] + (2**31 - 1).to_bytes(4, "big") + data[at + 4 :])  # once took 2.4 GB


def test_what_no_data_set_has_is_not_decoded():
    import cv2

    for kind in (".tiff", ".ppm", ".hdr"):
        pixels = np.zeros((8, 8, 3), np.float32 if kind == ".hdr" else np.uint8)
        with pytest.raises(CorruptImage, match="neither a JPEG nor"):
            decode(cv2.imencode(kind, pixels)[1].tobytes())


def test_a_line_of_an_image_is_evaluated_in_little_memory():
    import tracemalloc

    import cv2

    data = cv2.imencode(".png", np.full((1, 60_000, 3), 90, np.uint8))[1].tobytes()
    tracemalloc.start()
    assert (Transform(224).evaluate(data) == 90).all()  # once was first resized to 256 x 15,360,000 pixels, 12 GB
    tracemalloc.stop()


def test_metrics_with_damaged_lines_keep_the_others(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"epoch": e, "step": 9 * e} for e in (1, 2, 3)]
    lines = [json.dumps(row).encode() for row in rows]
    damaged = [b"\xff\xfe", b"[]", b"3", b'{"epoch": "2"}', b"[" * 10**5]
    path.write_bytes(b"\n".join([lines[0], *damaged, lines[1], lines[2][:9]]))
    assert logbook.read_epochs(path) == rows[:2]


def test_a_message_is_one_line_whatever_is_in_it(capsys):
    with pytest.raises(SystemExit):
        fail("a file named\nso\r\nand \t so")
    assert capsys.readouterr().err == "error: a file named so and so\n"


def test_no_pickle_is_loaded(tmp_path):
    trace = tmp_path / "ran"
    for path in (bad.npz_with_code(tmp_path, trace), bad.pickled(tmp_path, trace, "b.npz")):
        with pytest.raises(UserError, match="without pickles"):
            npz.load(str(path))
    assert not trace.exists()
    pickle.loads((tmp_path / "b.npz").read_bytes())  # here the code runs
    assert trace.exists()


def test_a_checkpoint_of_ours_holds_no_pickle(tmp_path):
    """Orbax keeps arrays and JSON. A pickle in place of any of its files is not loaded."""
    from recu_jax.training.checkpoint import read_best

    whole = bad.workdir(tmp_path)
    trace = tmp_path / "ran"
    code = pickle.dumps(bad.Code(trace), protocol=2)
    files = [path for path in whole.rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        kept = path.read_bytes()
        path.write_bytes(code)
        with contextlib.suppress(Exception):  # this test does not compare the error
            read_best(whole)
        path.write_bytes(kept)
        assert not trace.exists(), path
