"""Tests folders of images and Tiny-ImageNet: which records they have, and the errors if they do not fit."""

import pickle

import cv2
import numpy as np
import pytest

from recu_jax import UserError
from recu_jax.data import photos


def write(path, value=0, size=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    ok, encoded = cv2.imencode(path.suffix if path.suffix != ".JPEG" else ".jpg", np.full((size, size, 3), value, "u1"))
    assert ok
    path.write_bytes(encoded.tobytes())
    return encoded.tobytes()


def folders(root, test="val"):
    """Writes images of three classes, each image in one gray value. Returns the bytes of the files by name."""
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
