"""Bytes of the files that `recu_jax.export` writes of some networks, with random weights, which change nothing of it.

python experiments/benchmarks/file_sizes.py --out=file_sizes.json
"""

import argparse
import json
import pathlib
import sys
import tempfile

import jax

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from random_networks import file_of, variables_of  # noqa: E402

from recu_jax.deploy import container  # noqa: E402

CLASSES = {"cifar": 10, "imagenet": 1000}
SIDES = {"cifar": 32, "imagenet": 224}
MODELS = ("cifar_resnet20", "cifar_vgg_small", "cifar_resnet18", "imagenet_resnet18", "imagenet_resnet34")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, metavar="FILE.json")
    arguments = parser.parse_args()
    sizes = {}
    for name in MODELS:
        family = name.partition("_")[0]
        shape = (SIDES[family], SIDES[family], 3)
        _, variables = variables_of(name, shape, CLASSES[family])
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "network.recu"
            container.write(file, *file_of(name, variables, shape, num_classes=CLASSES[family]))
            size = file.stat().st_size
        # Parameters, as `recu_jax.export` counts them: statistics are not among them.
        floats = sum(4 * leaf.size for leaf in jax.tree.leaves(variables["params"]))
        sizes[name] = {"bytes": size, "float32_bytes": floats, "times_smaller": floats / size}
        print(f"{name:<18} {size:>9} bytes of {floats:>9}: {floats / size:.1f} times smaller")
    if arguments.out:
        arguments.out.write_text(json.dumps(sizes, indent=1) + "\n")


if __name__ == "__main__":
    main()
