"""Loads the 1,797 handwritten digits of scikit-learn, 8x8 pixels. Scikit-learn's package contains the images."""

import numpy as np

from recu_jax.data.dataset import Dataset

TEST_IMAGES = 360


def load() -> Dataset:
    """Loads 1,437 training and 360 test images, uint8, (8, 8, 1). The split is fixed and stratified by class."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = np.round(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    split = train_test_split(images, labels.astype(np.int32), test_size=TEST_IMAGES, stratify=labels, random_state=0)
    train_images, test_images, train_labels, test_labels = split
    return Dataset(train_images, train_labels, test_images, test_labels, 10, mean=(0.306,), std=(0.376,))
