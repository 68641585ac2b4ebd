"""Runs all measurements for one GPU in one call, and records each as it ends.

    python experiments/gpu_session.py --data=cifar10.npz --out=DIR [--minutes=12] [--steps STEP ...] [--rehearse]

Each of these steps runs in a process of its own and prints to DIR/STEP.log:

1. `devices`: versions and hardware;
2. `golden`: golden tests of layers and models in float64, on the GPU;
3. `profile_*`: `benchmarks/gpu_profile.py`, the time of each kernel of a train step, in float32 and bfloat16;
4. `benchmarks`: `benchmarks/gpu.py`, train steps against eager and compiled PyTorch;
5. `forward`: `benchmarks/gpu_forward.py`, convolutions of signs in float32, bfloat16, int8 and fp8;
6. `resnet20_600`: the paper's whole recipe in bfloat16; the same command continues a stopped run.

`--steps` chooses steps. All steps together may take `--minutes`. After this time, the running step is stopped, and
the steps after it are left out. On an H200, one model of `benchmarks` took a minute and a half, and `resnet20_600`
seven minutes.

`--data` is a file for the data set `npz`. The file may instead hold the encoded images of each split as one array of
bytes (`train_bytes`, `train_sizes`, `train_labels`, `test_bytes`, ...). The script then decodes them first.
`--rehearse` is for a machine without a GPU: the steps use small inputs and the digits, and `golden` is left out.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import time

STEPS = ("devices", "golden", "profile_float32", "profile_bfloat16", "benchmarks", "forward", "resnet20_600")
# The golden tests choose a CPU unless this variable is set.
GPU = {"JAX_PLATFORMS": "cuda,cpu"}
REPOSITORY = pathlib.Path(__file__).resolve().parents[1]


def unpack(packed, path):
    """Decodes a file of concatenated encoded images, and writes the file for the data set `npz`."""
    import io

    import numpy as np
    from PIL import Image

    arrays = {}
    with np.load(packed, allow_pickle=False) as file:
        for split in ("train", "test"):
            blob, ends = file[f"{split}_bytes"], np.cumsum(file[f"{split}_sizes"].astype(np.int64))
            pieces = np.split(blob, ends[:-1])
            arrays[f"{split}_images"] = np.stack([Image.open(io.BytesIO(p)).convert("RGB") for p in pieces])
            arrays[f"{split}_labels"] = file[f"{split}_labels"].astype(np.int32)
    np.savez(path, **arrays)


def is_packed(path):
    import numpy as np

    with np.load(path, allow_pickle=False) as file:
        return "train_bytes" in file


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--rehearse", action="store_true")
    arguments = parser.parse_args()
    if not arguments.rehearse and (arguments.data is None or not arguments.data.is_file()):
        parser.error("--data must name a .npz file (or pass --rehearse)")
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not arguments.rehearse and is_packed(arguments.data):
        unpack(arguments.data, arguments.out / "unpacked.npz")
        arguments.data = arguments.out / "unpacked.npz"
    end = time.monotonic() + 60 * arguments.minutes

    def run(name, *command, environment=None):
        began, left = time.monotonic(), end - time.monotonic()
        if name not in arguments.steps:
            return
        if left <= 0:
            print(f"{name}: no time left", flush=True)
            return
        with open(arguments.out / f"{name}.log", "w") as log:
            try:
                code = subprocess.run(
                    [sys.executable, *command], cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT, timeout=left,
                    env=os.environ | (environment or {}),
                ).returncode  # fmt: skip
            except subprocess.TimeoutExpired:
                code = "stopped: no time left"
        print(f"{name}: exit {code}, {time.monotonic() - began:.0f} s", flush=True)

    def train(name, *overrides):
        if arguments.rehearse:
            source = ["--config=configs/digits.py"]
        else:
            source = ["--config=configs/cifar10.py", "--config.dataset=npz", f"--config.data_dir={arguments.data}"]
        workdir = arguments.out / name
        run(name, "-m", "recu_jax.main", *source, f"--workdir={workdir}", "--config.tensorboard=False", *overrides)

    run("devices", "-c", "import jax, flax, optax; print(jax.__version__, flax.__version__, jax.devices())")
    if not arguments.rehearse:
        run("golden", "-m", "pytest", "-q", "-m", "slow or not slow", "tests/test_golden.py", environment=GPU)
    for dtype in ("float32", "bfloat16"):
        rehearse = ["--rehearse"] if arguments.rehearse else []
        out = f"--out={arguments.out}/profile_{dtype}.json"
        run(f"profile_{dtype}", "experiments/benchmarks/gpu_profile.py", f"--dtype={dtype}", out, *rehearse)
    small = ["--rehearse", "--repeats=1"] if arguments.rehearse else []
    run("benchmarks", "experiments/benchmarks/gpu.py", f"--out={arguments.out / 'gpu.json'}", *small)
    run("forward", "experiments/benchmarks/gpu_forward.py", f"--out={arguments.out / 'gpu_forward.json'}", *small)
    epochs = 1 if arguments.rehearse else 600
    train("resnet20_600", f"--config.epochs={epochs}", "--config.dtype=bfloat16", "--config.checkpoint_every_epochs=20")


if __name__ == "__main__":
    main()
