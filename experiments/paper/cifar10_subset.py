"""Writes the fixed CIFAR-10 subset of the small experiments: 5,000 training images and all test images.

    python experiments/paper/cifar10_subset.py --data_dir=DIR --out=cifar10_5000.npz

The training images are the first 500 of each class in the order of the data set, so every copy of CIFAR-10 gives the
same subset.
"""

import argparse
import hashlib

import numpy as np

from recu_jax import data

PER_CLASS = 500


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args()
    whole = data.load("cifar10", arguments.data_dir, num_workers=2)
    labels = np.asarray(whole.train_labels)
    chosen = np.sort(np.concatenate([np.flatnonzero(labels == c)[:PER_CLASS] for c in range(whole.num_classes)]))
    images = whole.train_images[chosen]
    np.savez(
        arguments.out,
        train_images=images,
        train_labels=labels[chosen],
        test_images=whole.test_images,
        test_labels=whole.test_labels,
    )
    print(f"{len(images)} images, blake2b {hashlib.blake2b(images.tobytes(), digest_size=8).hexdigest()}")


if __name__ == "__main__":
    main()
