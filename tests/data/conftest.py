"""Provides a folder of photographs, a folder with corrupt photographs, and all training batches of the second."""

import pytest

from recu_jax.data import photos
from recu_jax.data.stream import train_batches
from tests.support.photo_streams import CORRUPT, IMAGES, TRAIN, kept, write_folder


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    write_folder(root, "train", IMAGES)
    write_folder(root, "val", 6)
    return photos.load("image_folder", str(root)).train


@pytest.fixture(scope="session")
def broken_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("broken")
    write_folder(root, "train", IMAGES, {CORRUPT, CORRUPT + 1, IMAGES - 1})
    write_folder(root, "val", 6)
    return root


@pytest.fixture(scope="session")
def broken(broken_root):
    return photos.load("image_folder", str(broken_root)).train


@pytest.fixture(scope="session")
def uninterrupted(broken):
    """Returns all training batches of the folder with corrupt images, made in this process."""
    with train_batches(broken, **TRAIN, num_workers=0, on_corrupt="skip") as batches:
        return kept(batches)
