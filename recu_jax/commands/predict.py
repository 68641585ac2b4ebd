"""`recu predict` prints the most probable classes of pictures."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from recu_jax import networks, paths
from recu_jax.commands.arguments import ArgumentParser, local_path, run, run_path
from recu_jax.deploy.model import load
from recu_jax.deploy.pictures import read_image, top
from recu_jax.errors import UserError
from recu_jax.ops import backend

_ABOUT = "Prints the five most probable classes of each picture."


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the arguments and prints a line for each picture."""
    parser = ArgumentParser("predict", _ABOUT, "recu predict digits.recu seven.png")
    names = ", ".join(networks.NAMES)
    about = (
        "file that `recu export` wrote, folder of a run (its best checkpoint, of any model),\n"
        f"or a trained network that comes with recu_jax: {names}"
    )
    parser.add_argument("network", metavar="NETWORK", type=run_path, help=about)
    parser.add_argument("images", metavar="IMAGE", type=local_path, nargs="+", help="pictures: JPEG, PNG, WebP, BMP")
    args = parser.parse_args(argv)
    backend.set_xla_flags()
    run(lambda: _main(args))


def _main(args) -> None:
    model = _network(args.network)
    # Each picture is a batch of its own, because JAX compiles the model again for every new batch size.
    for path in args.images:
        logits = np.asarray(model.predict(read_image(path, model)[None]))[0]
        found = top(logits, model.header.class_names)
        print(f"{path}: " + ", ".join(f"{name} {probability:.1%}" for name, probability in found), flush=True)


def _network(given):
    """Returns the network of a run, the network in a file, or a network that comes with recu_jax."""
    if os.path.isdir(given):
        return _of_run(given)
    if paths.in_bucket(given):
        # A run may be in a bucket. A file of `recu export` may not.
        return load(paths.local(given)) if given.endswith(".recu") else _of_run(given)
    # If there is no such file, and the text does not look like a path, it is a network's name, perhaps misspelled.
    is_name = not os.path.exists(given) and given == pathlib.Path(given).stem
    return load(networks.file(given) if is_name else given)


def _of_run(workdir):
    # These modules import Flax and Orbax. A network in a file needs neither.
    from recu_jax.deploy import flax_model

    try:
        return flax_model.of_run(workdir)
    except UserError as error:
        if workdir in networks.NAMES:
            raise UserError(
                f"{error}; the folder {workdir} here comes before the network of this name: rename it, or work in "
                "another folder"
            ) from error
        raise
