"""Folders of images and TFDS's ImageNet: which records there are, and what is said where there are none."""

import importlib.util
import io
import json
import pathlib
import pickle

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from recu_jax import UserError
from recu_jax.data import photos
from recu_jax.data.array_records import example_fields


def write(path, value=0, size=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    ok, encoded = cv2.imencode(path.suffix if path.suffix != ".JPEG" else ".jpg", np.full((size, size, 3), value, "u1"))
    assert ok
    path.write_bytes(encoded.tobytes())
    return encoded.tobytes()


def folders(root, test="val"):
    """Three classes; their number in sorted order is `value // 10`."""
    files = {}
    for value, name in [(21, "train/b/0.png"), (11, "train/Zebra/x.JPEG"), (22, "train/b/deep/er/1.jpg")]:
        files[name] = write(root / name, value)
    files["train/a b/ü.jpeg"] = write(root / "train/a b/ü.jpeg", 31)
    files[f"{test}/a b/1.webp"] = write(root / f"{test}/a b/1.webp", 32)
    return files


@pytest.mark.parametrize("test", ["val", "validation", "test"])
def test_image_folder(tmp_path, test):
    files = folders(tmp_path, test)
    (tmp_path / "train/b/notes.txt").write_text("no image")
    (tmp_path / "train/.cache").mkdir()
    (tmp_path / "train/b/._0.png").write_bytes(b"what macOS leaves in archives")
    p = photos.load("image_folder", str(tmp_path))
    assert p.num_classes == 3 and len(p.train) == 4 and len(p.test) == 1
    assert p.mean == (0.485, 0.456, 0.406) and p.std == (0.229, 0.224, 0.225)
    # Capitals first, as Python and the shell's C locale sort: Zebra, a b, b.
    expected = [("train/Zebra/x.JPEG", 0), ("train/a b/ü.jpeg", 1), ("train/b/0.png", 2), ("train/b/deep/er/1.jpg", 2)]
    for records in (p.train, pickle.loads(pickle.dumps(p.train))):
        for i, (name, label) in enumerate(expected):
            assert records.read(i) == (files[name], label)
            assert records.name(i) == f"train image {i} ({tmp_path / name})"
    assert p.test.read(0) == (files[f"{test}/a b/1.webp"], 1)


def test_folders_may_be_links(tmp_path):
    write(tmp_path / "elsewhere/a/0.jpg")
    for link in ("train/a", "val/a/more"):
        (tmp_path / link).parent.mkdir(parents=True)
        (tmp_path / link).symlink_to(tmp_path / "elsewhere/a")
    p = photos.load("image_folder", str(tmp_path))
    assert len(p.train) == len(p.test) == 1 and p.train.read(0) == p.test.read(0)


def tiny_imagenet(root):
    for name in ("n02", "n01"):
        for i in range(3):
            write(root / f"train/{name}/images/{name}_{i}.JPEG", i)
        (root / f"train/{name}/{name}_boxes.txt").write_text("n02_0.JPEG\t0\t0\t62\t62\n")
    lines = []
    for i, name in enumerate(["n02", "n01", "n02", "n02"]):
        write(root / f"val/images/val_{i}.JPEG", 100 + i)
        lines.append(f"val_{i}.JPEG\t{name}\t0\t32\t44\t62\n")
    (root / "val/val_annotations.txt").write_text("".join(lines))
    write(root / "test/images/test_0.JPEG")  # has no labels anywhere


def test_tiny_imagenet_as_it_is_distributed(tmp_path):
    tiny_imagenet(tmp_path)
    p = photos.load("tiny_imagenet", str(tmp_path))
    assert p.num_classes == 2 and len(p.train) == 6
    assert p.mean == (0.4802, 0.4481, 0.3975) and p.std == (0.2302, 0.2265, 0.2262)
    assert [p.test.read(i)[1] for i in range(4)] == [1, 0, 1, 1]
    assert p.test.read(2)[0] == (tmp_path / "val/images/val_2.JPEG").read_bytes()
    assert p.test.name(2) == f"val image 2 ({tmp_path}/val/images/val_2.JPEG)"


def remove(path):
    for p in sorted([path, *path.rglob("*")], reverse=True):
        p.rmdir() if p.is_dir() else p.unlink()


@pytest.mark.parametrize(
    "damage,message",
    [
        (lambda root: remove(root / "train"), "has no folder 'train'"),
        (lambda root: remove(root / "val"), "none of the folders 'val', 'validation', 'test'"),
        (lambda root: [remove(p) for p in (root / "train").iterdir()], "train has no class folders"),
        (lambda root: [remove(p) for p in (root / "val").iterdir()], "val has no class folders"),
        (lambda root: write(root / "val/c/0.jpg"), "val has the class folder 'c'"),
        (lambda root: (root / "train/Zebra/x.JPEG").unlink(), "Zebra holds no images (.jpg"),
        (remove, "where there is no folder"),
    ],
)
def test_folders_that_do_not_fit(tmp_path, damage, message):
    folders(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError) as error:
        photos.load("image_folder", str(tmp_path))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "annotations,message",
    [("val_0.JPEG\tn03\t0\n", "the class 'n03'"), ("\n", "names no images"), ("gone.JPEG\tn01\n", "is not there")],
)
def test_annotations_that_do_not_fit(tmp_path, annotations, message):
    tiny_imagenet(tmp_path)
    (tmp_path / "val/val_annotations.txt").write_text(annotations)
    with pytest.raises(UserError, match=message):
        photos.load("tiny_imagenet", str(tmp_path))


def test_unknown_name_and_missing_folder():
    with pytest.raises(UserError, match="did you mean 'imagenet2012'"):
        photos.load("imagenet", None)
    with pytest.raises(UserError, match="data_dir is not set"):
        photos.load("image_folder")


def prepare_imagenet(data_dir, per_split):
    """Writes ImageNet with these (file name, bytes, label) as TFDS itself would."""
    features = {
        "file_name": tfds.features.Text(),
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(num_classes=1000),
    }

    def examples(split):
        for name, data, label in per_split[split]:
            yield name, {"file_name": name, "image": io.BytesIO(data), "label": label}

    methods = {
        "VERSION": tfds.core.Version("5.1.0"),
        "pkg_dir_path": pathlib.Path(__file__).parent,
        "_info": lambda self: tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features)),
        "_split_generators": lambda self, _: {split: examples(split) for split in per_split},
        "_generate_examples": lambda self: (),
    }
    with tfds.core.registered.skip_registration():
        builder = type("Imagenet2012", (tfds.core.GeneratorBasedBuilder,), methods)
    builder = builder(data_dir=data_dir, file_format="array_record")
    config = tfds.download.DownloadConfig(num_shards=3)
    builder.download_and_prepare(download_config=config)
    return builder


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    r = np.random.default_rng(0)
    per_split = {"train": [], "validation": []}
    for i, label in enumerate([0, 1, 127, 128, 300, 999, 5, 6, 7, 8]):
        data = cv2.imencode(".jpg", r.integers(0, 256, (40, 50, 3), np.uint8))[1].tobytes()
        per_split["train" if i < 7 else "validation"].append((f"n{i}.JPEG", data, label))
    return root, per_split, prepare_imagenet(root, per_split)


@pytest.mark.filterwarnings("ignore")
def test_imagenet_of_tfds(imagenet):
    root, per_split, builder = imagenet
    assert len(list(root.rglob("*train.array_record*"))) == 3
    p = photos.load("imagenet2012", str(root))
    assert p.num_classes == 1000 and p.mean == (0.485, 0.456, 0.406)
    for records, split in ((p.train, "train"), (p.test, "validation")):
        assert len(records) == len(per_split[split])
        got = {(records.name(i), *records.read(i)) for i in range(len(records))}
        assert {(data, label) for _, data, label in got} == {(data, label) for _, data, label in per_split[split]}
        # In TFDS's own order, by TFDS's own reader.
        source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        for i, example in enumerate(source):
            assert records.read(i) == (example["image"], example["label"])
            assert records.name(i) == f"{split} image {i} ({example['file_name'].decode()})"
    p.train.read(0)
    assert pickle.loads(pickle.dumps(p.train)).read(3) == p.train.read(3)


def test_example_fields_of_both_encodings_of_lists():
    def field(number, content):
        return bytes([number << 3 | 2, len(content)]) + content

    def feature(name, kind, values):
        return field(1, field(1, name) + field(2, field(kind, values)))

    packed, alone = field(1, b"\x96\x01\x05"), b"\x08\x96\x01"
    features = [feature(b"p", 3, packed), feature(b"a", 3, alone), feature(b"f", 2, field(1, b"1234"))]
    features += [feature(b"b", 1, field(1, b"bytes")), feature(b"empty", 3, b""), feature(b"zero", 3, field(1, b"\0"))]
    assert dict(example_fields(field(1, b"".join(features)))) == {"p": 150, "a": 150, "b": b"bytes", "zero": 0}


@pytest.mark.filterwarnings("ignore")
def test_imagenet_as_tfrecords_says_how_to_convert(imagenet, tmp_path):
    version = tmp_path / "imagenet2012" / "5.1.0"
    version.mkdir(parents=True)
    for file in (imagenet[0] / "imagenet2012" / "5.1.0").glob("*.json"):
        (version / file.name).write_text(file.read_text())
    info = json.loads((version / "dataset_info.json").read_text())
    (version / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    with pytest.raises(UserError, match=r"tfds convert_format --dataset_dir=.*imagenet2012.*array_record"):
        photos.load("imagenet2012", str(tmp_path))


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow would prepare it")
@pytest.mark.filterwarnings("ignore")
def test_imagenet_that_is_not_there_says_what_to_do(tmp_path):
    with pytest.raises(UserError) as error:
        photos.load("imagenet2012", str(tmp_path))
    for part in ("ILSVRC2012_img_train.tar", "downloads/manual", "recu_jax[prepare]", "image_folder"):
        assert part in str(error.value)
    assert "download and prepare" not in str(error.value) and "\n" not in str(error.value)
