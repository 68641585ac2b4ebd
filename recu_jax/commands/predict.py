"""`recu predict` prints the most probable classes of pictures."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from recu_jax import networks
from recu_jax.commands.arguments import ArgumentParser, local_path, run
from recu_jax.deploy.model import load
from recu_jax.deploy.pictures import read_image, top
from recu_jax.ops import backend

_ABOUT = "Prints the five most probable classes of each picture."


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the arguments and prints a line for each picture."""
    parser = ArgumentParser("predict", _ABOUT, "recu predict digits.recu seven.png")
    names = ", ".join(networks.NAMES)
    about = f"file that `recu export` wrote, or a trained network that comes with recu_jax: {names}"
    parser.add_argument("file", metavar="FILE", type=local_path, help=about)
    parser.add_argument("images", metavar="IMAGE", type=local_path, nargs="+", help="pictures: JPEG, PNG, WebP, BMP")
    args = parser.parse_args(argv)
    backend.set_xla_flags()
    run(lambda: _main(args))


def _main(args) -> None:
    # Neither a file nor a path: a name, perhaps with a mistake.
    is_name = not os.path.exists(args.file) and args.file == pathlib.Path(args.file).stem
    model = load(networks.file(args.file) if is_name else args.file)
    # Each picture is a batch of its own, because JAX compiles the model again for every new batch size.
    for path in args.images:
        logits = np.asarray(model.predict(read_image(path, model)[None]))[0]
        found = top(logits, model.header.class_names)
        print(f"{path}: " + ", ".join(f"{name} {probability:.1%}" for name, probability in found), flush=True)
