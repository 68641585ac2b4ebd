"""Reads folders of images: `DIR/train/CLASS/**/*.jpg` and `DIR/val/CLASS/**/*.jpg`.

It also reads Tiny-ImageNet as distributed: `DIR/val/val_annotations.txt` gives the classes of the test images.
"""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from recu_jax.data.images import CorruptImage
from recu_jax.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
TEST_FOLDERS = ("val", "validation", "test")
_ANNOTATIONS = "val_annotations.txt"
_LAYOUT = "it must hold train/CLASS/*.jpg and val/CLASS/*.jpg"


class FolderRecords:
    """The image files of one split. They can be read in any order. The object is picklable.

    One block of bytes holds all paths. A million Python strings would take 100 MB in every worker process.

    Attributes:
      labels: the class of each file, int32, (files,).
    """

    def __init__(self, folder: pathlib.Path, paths: list[str], labels: list[int]):
        self._folder = str(folder)
        encoded = [os.fsencode(p) for p in paths]
        self._paths = b"".join(encoded)
        self._ends = np.cumsum([len(p) for p in encoded], dtype=np.int64)
        self.labels = np.asarray(labels, np.int32)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, i: int) -> tuple[bytes, int]:
        """Returns the encoded file `i` and its class.

        Raises:
          CorruptImage: the file cannot be read.
        """
        try:
            with open(os.path.join(self._folder, self._path(i)), "rb") as file:
                return file.read(), int(self.labels[i])
        except OSError as error:
            raise CorruptImage(f"cannot be read: {error.strerror}") from error

    def name(self, i: int) -> str:
        """Names image `i` for messages: `train image 17 (/data/train/cat/a.jpg)`."""
        path = os.path.join(self._folder, self._path(i))
        return f"{os.path.basename(self._folder)} image {i} ({path})"

    def _path(self, i):
        return os.fsdecode(self._paths[self._ends[i - 1] if i else 0 : self._ends[i]])


NO_RECORDS = FolderRecords(pathlib.Path(), [], [])


def load(
    data_dir: str, test_only: bool = False, class_names: Sequence[str] | None = None
) -> tuple[FolderRecords, FolderRecords, list[str]]:
    """Returns training records, test records and the names of the classes.

    The id of a class is the position of its name among the returned names. The names are sorted, unless `class_names`
    gives another order.

    Args:
      data_dir: the folder that holds `train` and `val`. `val` may also be named `validation` or `test`.
      test_only: returns no training records. The folder `train` may then be missing.
      class_names: names of the classes in the order of their ids. None takes the classes of `train`, or those of `val`
        if there is no `train`.

    Raises:
      UserError: a folder is missing or empty, a class is not one of the returned names, or the annotation file is
        damaged.
    """
    root = pathlib.Path(data_dir)
    if not root.is_dir():
        raise UserError(f"data_dir is {data_dir!r}, where there is no folder; {_LAYOUT}")
    train = root / "train"
    if not train.is_dir() and not test_only:
        raise UserError(f"{root} has no folder 'train'; {_LAYOUT}")
    test = next((root / name for name in TEST_FOLDERS if (root / name).is_dir()), None)
    if test is None:
        raise UserError(f"{root} has none of the folders {', '.join(map(repr, TEST_FOLDERS))}; {_LAYOUT}")
    annotated = (test / _ANNOTATIONS).is_file()
    if class_names:
        names, whose = list(class_names), "the run"
    elif train.is_dir():
        names, whose = class_folders(train), "train"
    else:
        names = sorted({name for _, name in _annotations(test)}) if annotated else class_folders(test)
        whose = "it"
    classes = {name: i for i, name in enumerate(names)}
    test_records = _annotated(test, classes, whose) if annotated else _by_class(test, classes, whose)
    return NO_RECORDS if test_only else _by_class(train, classes, whose), test_records, names


def class_folders(folder: pathlib.Path) -> list[str]:
    """Returns the sorted names of the folders in `folder`. The position of a name is its class id.

    Raises:
      UserError: `folder` has no folders.
    """
    names = sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))
    if not names:
        raise UserError(f"{folder} has no class folders; {_LAYOUT}")
    return names


def _by_class(folder, classes, whose):
    names = class_folders(folder)
    unknown = [n for n in names if n not in classes]
    if unknown:
        raise UserError(
            f"{folder} has the class folder {unknown[0]!r} ({len(unknown)} of {len(names)} such), which {whose} lacks; "
            f"the classes must be those of {whose}: rename or remove it"
        )
    paths, labels = [], []
    for name in names:
        files = _images(folder, name)
        if not files:
            raise UserError(
                f"{folder / name} holds no images ({', '.join(SUFFIXES)}); add some, or remove the folder everywhere"
            )
        paths += files
        labels += [classes[name]] * len(files)
    return FolderRecords(folder, paths, labels)


def _images(folder, name):
    found = []
    for where, folders, files in os.walk(folder / name, followlinks=True):
        folders[:] = [f for f in folders if not f.startswith(".")]
        inside = os.path.relpath(where, folder)
        # Archives made on macOS hold a file `._a.jpg` for every `a.jpg`. This file is not an image.
        found += [os.path.join(inside, f) for f in files if f.lower().endswith(SUFFIXES) and not f.startswith(".")]
    return sorted(found)


def _annotated(folder, classes, whose):
    """Returns the records of Tiny-ImageNet's test images.

    All these images lie in one folder, `images`. The annotation file has a line `file<TAB>class<TAB>box` for each
    image.
    """
    paths, labels = [], []
    for file, name in _annotations(folder):
        if name not in classes:
            raise UserError(
                f"{folder / _ANNOTATIONS} gives {file[:80]!r} the class {name[:80]!r}, which {whose} lacks; the "
                f"classes must be those of {whose}"
            )
        if not file or "/" in file or "\0" in file:
            raise UserError(f"{folder / _ANNOTATIONS} names the file {file[:80]!r}; it must name a file in 'images'")
        paths.append(os.path.join("images", file))
        labels.append(classes[name])
    if not paths:
        raise UserError(f"{folder / _ANNOTATIONS} names no images; it needs a line 'file<TAB>class' for each")
    if not (folder / paths[0]).is_file():
        raise UserError(f"{folder / paths[0]} is not there, though {_ANNOTATIONS} names it; unpack the archive anew")
    return FolderRecords(folder, paths, labels)


def _annotations(folder):
    """Returns file and class of each line of the annotations."""
    try:
        text = (folder / _ANNOTATIONS).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{folder / _ANNOTATIONS} is no text in UTF-8; unpack the archive anew") from error
    return [tuple([*line.split("\t"), ""][:2]) for line in text.splitlines() if line.strip()]
