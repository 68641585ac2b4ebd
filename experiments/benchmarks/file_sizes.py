"""Compares the bytes of files that `recu export` writes with those of the networks' parameters in float32.

    python experiments/benchmarks/file_sizes.py --out=file_sizes.json

The weights are random, because the sizes do not depend on them.
"""

import argparse
import json
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from tests.support.random_networks import sizes

CIFAR, IMAGENET = ((32, 32, 3), 10), ((224, 224, 3), 1000)
MODELS = {
    "cifar_resnet20": CIFAR,
    "cifar_vgg_small": CIFAR,
    "cifar_resnet18": CIFAR,
    "imagenet_resnet18": IMAGENET,
    "imagenet_resnet34": IMAGENET,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, metavar="FILE.json")
    arguments = parser.parse_args()
    found = {}
    for name, (shape, classes) in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            size, float32 = sizes(name, shape, classes, pathlib.Path(folder) / "network.recu")
        found[name] = {"bytes": size, "float32_bytes": float32, "times_smaller": float32 / size}
        print(f"{name:<18} {size:>9} bytes of {float32:>9}: {float32 / size:.1f} times smaller")
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
