"""Runs a network's C on emulated devices, and records its predictions, flash and RAM.

    python experiments/devices/run.py RUN --images=100 --out=digits.json [--data_dir=DIR]

Needs qemu-system-arm, gcc-arm-none-eabi and libnewlib-arm-none-eabi for Cortex-M; qemu-user and `pip install ziglang`
for 64-bit Arm; `pip install ziglang` and node for WebAssembly. If the tools of a device are missing, the script leaves
the device out and prints what to install.
"""

import argparse
import json
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import recu_jax
from recu_jax.deploy import model, trained
from recu_jax.deploy.c import compiled, source

HERE = pathlib.Path(__file__).parent
WARNINGS = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
_SEMIHOSTING = ["-nographic", "-monitor", "none", "-serial", "none", "-semihosting-config", "enable=on,target=native"]
_ZIG = [sys.executable, "-m", "ziglang", "cc"]


def _cortex_m(cpu, unit, board):
    arm = "arm-none-eabi-gcc -O2 -mthumb -mfloat-abi=hard --specs=rdimon.specs -nostartfiles -ffunction-sections "
    arm += f"-fdata-sections -Wl,--gc-sections -mcpu={cpu} -mfpu={unit} -T {HERE / 'cortex_m.ld'}"
    return [*arm.split(), HERE / "cortex_m.c"], ["qemu-system-arm", "-M", board, *_SEMIHOSTING, "-kernel"]


# For each device: the command that compiles a program, and the command that runs it.
DEVICES = {
    "Cortex-M4": _cortex_m("cortex-m4", "fpv4-sp-d16", "mps2-an386"),
    "Cortex-M7": _cortex_m("cortex-m7", "fpv5-d16", "mps2-an500"),
    "AArch64": ([*_ZIG, "-target", "aarch64-linux-musl", "-O2"], ["qemu-aarch64"]),
    "WebAssembly": ([*_ZIG, "-target", "wasm32-wasi", "-O2"], ["node", "--no-warnings", HERE / "wasi.mjs"]),
}
PACKAGES = {
    "Cortex-M4": "apt-get install qemu-system-arm gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "Cortex-M7": "apt-get install qemu-system-arm gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "AArch64": "apt-get install qemu-user; pip install ziglang",
    "WebAssembly": "apt-get install nodejs; pip install ziglang",
}


def missing(device: str) -> str | None:
    """Returns what to install for a device, or None if its tools are installed."""
    build, run = DEVICES[device]
    found = all(shutil.which(command[0]) for command in (build, run))
    if found and "ziglang" in build:
        found = subprocess.run([*_ZIG[:3], "version"], capture_output=True).returncode == 0
    return None if found else f"{device}: {PACKAGES[device]}"


def logits_on(device: str, folder: pathlib.Path, images: np.ndarray) -> tuple[np.ndarray, dict]:
    """Compiles `folder`/network for a device, and runs the program on `images`.

    Returns:
      The logits, float32, (images, classes), and what is recorded: the kernels, the versions of compiler and emulator,
      and for a Cortex-M the sizes of `_sizes`.
    """
    build, run = DEVICES[device]
    network, program = folder / "network", folder / f"{device}.out"
    images.tofile(folder / "images.bin")
    (folder / "logits.bin").unlink(missing_ok=True)
    sources = [network / "network.c", HERE / "predict_file.c"]
    subprocess.run([*map(str, [*build, *WARNINGS, f"-I{network}", *sources, "-lm", "-o", program])], check=True)
    done = subprocess.run([*map(str, run), str(program)], cwd=folder, check=True, capture_output=True, text=True)
    kernels, _, count = done.stdout.strip().partition(", ")
    assert count == f"{len(images)} images", done.stdout + done.stderr
    record = {"kernels": kernels, "compiler": _first_line([*build[:1], "--version"])}
    if build[0] != _ZIG[0]:
        record |= _sizes(program, network, build)
    else:
        record["compiler"] = "zig cc " + _first_line([*_ZIG[:3], "version"])
    record["emulator"] = _first_line([run[0], "--version"])
    return np.fromfile(folder / "logits.bin", np.float32).reshape(len(images), -1), record


def _sizes(program, network, build):
    """Returns the bytes of flash and RAM of the network alone, and of the program, which includes the C library."""
    alone = network / "network.o"
    flags = [part for part in map(str, build) if part.startswith(("-O", "-m", "-f"))]
    subprocess.run([build[0], *flags, "-std=c99", "-c", network / "network.c", "-o", alone], check=True)
    found = {}
    for name, file in (("network", alone), ("program", program)):
        line = subprocess.run(["arm-none-eabi-size", file], check=True, capture_output=True, text=True).stdout
        text, data, bss = map(int, line.splitlines()[1].split()[:3])
        found |= {f"{name}_flash_bytes": text + data, f"{name}_ram_bytes": data + bss}
    return found


def _first_line(command):
    return subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir")
    parser.add_argument("--images", type=int, default=100, help="test images on each device")
    parser.add_argument("--data_dir")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    read = trained.read_trained(args.workdir, data_dir=args.data_dir)
    network = model.parse(*trained.network(read))
    images = read.load_test().test_images[: args.images]
    want = np.asarray(network.predict(images))
    versions = {"recu_jax": recu_jax.__version__, "python": platform.python_version()}
    record = {"model": network.header.model, "test_images": len(images), "versions": versions, "devices": {}}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        source.write(folder / "network", network)
        sizes = compiled.sizes_of(folder / "network")
        record |= {"weight_bytes": sizes["WEIGHT_BYTES"], "ram_bytes": sizes["RAM_BYTES"]}
        for device in DEVICES:
            if lacking := missing(device):
                print(f"left out, not installed: {lacking}")
                continue
            logits, of_device = logits_on(device, folder, images)
            of_device["differing_predictions"] = int((logits.argmax(-1) != want.argmax(-1)).sum())
            of_device["max_logit_difference"] = float(abs(logits - want).max())
            record["devices"][device] = of_device
            print(device, of_device, flush=True)
    args.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
