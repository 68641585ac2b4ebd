"""Estimates the statistics of batch norm anew on the training images, and compares the accuracy on the test images.

    python experiments/recipe/batch_statistics.py WORKDIR [--data_dir=DIR] [--images=50000]

A run keeps running averages of the statistics. They depend on the last dozen batches alone, which had older weights.
Here the statistics are means over many training images, without augmentation, under the weights of the checkpoint. For
a network of `recu_jax.models`.
"""

import argparse

import jax
import jax.numpy as jnp

from recu_jax import data
from recu_jax.config.fields import base_config, plain
from recu_jax.data.augment import normalize
from recu_jax.models.batch_norm import MOMENTUM
from recu_jax.training.checkpoint import read_best
from recu_jax.training.recipe import make_model

BATCH = 500


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir")
    parser.add_argument("--data_dir", help="folder or file of the data set; default: as in the run")
    parser.add_argument("--images", type=int, default=50_000, help="training images to estimate from")
    arguments = parser.parse_args()
    step, record, variables = read_best(arguments.workdir)
    config = plain(base_config()) | record["config"]
    dataset = data.load(config["dataset"], arguments.data_dir or config["data_dir"])
    model = make_model(config, dataset.num_classes)

    def normalized(images):
        return normalize(images, dataset.mean, dataset.std)

    @jax.jit
    def statistics(variables, images):
        """Returns mean and variance of a batch in each batch norm."""
        x = normalized(images)
        _, changed = model.apply(variables, x, tau=config["tau_max"], train=True, progress=1.0, mutable=["batch_stats"])
        return jax.tree.map(
            lambda new, old: (new - MOMENTUM * old) / (1 - MOMENTUM), changed["batch_stats"], variables["batch_stats"]
        )

    @jax.jit
    def right(variables, images, labels):
        return (model.apply(variables, normalized(images)).argmax(-1) == labels).sum()

    def top1(variables):
        parts = [slice(i, i + BATCH) for i in range(0, dataset.test_count, BATCH)]
        found = [int(right(variables, dataset.test_images[p], dataset.test_labels[p])) for p in parts]
        return 100 * sum(found) / dataset.test_count

    starts = range(0, min(arguments.images, len(dataset.train_images)) - BATCH + 1, BATCH)
    found = [statistics(variables, dataset.train_images[i : i + BATCH]) for i in starts]
    anew = jax.tree.map(lambda *values: jnp.stack(values).mean(0), *found)
    print(f"step {step}: {top1(variables):.2f}% with the running statistics, ", end="")
    print(f"{top1({**variables, 'batch_stats': anew}):.2f}% with those of {arguments.images} training images")


if __name__ == "__main__":
    main()
