"""Writes the files of a trained network that comes with recu_jax, from the best checkpoint of a run.

    python experiments/make_network.py runs/cifar NAME [--class_names airplane,automobile,...] [--data_dir=FILE]

It writes `NAME.recu` and `NAME.safetensors` into `recu_jax/networks/`, and prints the test accuracy of `NAME.recu`. In
`NAME.safetensors`, the latent weights are stored as float16. Where the rounding would change a binary weight, the
latent weight gets the nearest float16 that does not. Write the model card, `NAME.md`, by hand.
"""

import argparse
import dataclasses
import pathlib
import sys

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from recu_jax import deploy, functional
from recu_jax.deploy.trained import read_trained, write

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "recu_jax" / "networks"


def rounded(kernel: np.ndarray) -> np.ndarray:
    """Rounds the latent weights of a binary convolution to float16 without changing a binary weight."""

    def signs(latent):
        return np.asarray(functional.binarize_weights(jnp.asarray(latent, jnp.float32)))

    wanted, half = signs(kernel), kernel.astype(np.float16)
    for _ in range(100):
        wrong = signs(half) != wanted
        if not wrong.any():
            return half
        half = np.where(wrong, np.nextafter(half, (np.inf * wanted).astype(np.float16)), half)
    raise SystemExit("float16 cannot hold the binary weights")


def accuracy(path: pathlib.Path, dataset) -> float:
    """Returns the top-1 accuracy (percent) of a file on the test images of a data set."""
    network, batch = deploy.load(path), 1000
    found = [
        np.asarray(network.predict(dataset.test_images[i : i + batch])).argmax(-1)
        for i in range(0, dataset.test_count, batch)
    ]
    return 100 * float((np.concatenate(found) == dataset.test_labels).mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir")
    parser.add_argument("name")
    parser.add_argument("--class_names", default="", help="by commas, if the data set of the run has none")
    parser.add_argument("--data_dir")
    arguments = parser.parse_args()
    trained = read_trained(arguments.workdir, data_dir=arguments.data_dir)
    if trained.config["model"] != arguments.name:
        parser.error(f"the run is of {trained.config['model']}")
    if arguments.class_names:
        info = dataclasses.replace(trained.info, class_names=tuple(arguments.class_names.split(",")))
        trained = dataclasses.replace(trained, info=info)
    print(write(trained, FOLDER / f"{arguments.name}.recu"))
    arrays = {"/".join(path): np.asarray(leaf, np.float32) for path, leaf in flatten_dict(trained.variables).items()}
    latent = {p for p in arrays if p.endswith("/kernel") and p.removesuffix("kernel") + "alpha" in arrays}
    arrays = {p: np.ascontiguousarray(rounded(a) if p in latent else a) for p, a in arrays.items()}
    (FOLDER / f"{arguments.name}.safetensors").write_bytes(safetensors.numpy.save(arrays))
    dataset = trained.load_test()
    print(f"{accuracy(FOLDER / f'{arguments.name}.recu', dataset):.2f}% of {dataset.test_count} test images")


if __name__ == "__main__":
    main()
