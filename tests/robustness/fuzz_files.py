"""Loads mutated files of 1-bit networks and runs networks that load: no crash, no hang, and errors of one line.

    python -m tests.robustness.fuzz_files --mutants=10000 --out=experiments/results/fuzz_files/result.json

Mutations change bits anywhere and bytes of the header, replace numbers of the header, swap, double, drop or change
operations, double, move or remove parts, and cut off the end. If a file loads and its header differs from the
original's, its network is run. At most --runs networks are run, because each is compiled anew.

--kernels=FILE.so takes the compiled kernels from FILE, such as a build with -fsanitize=address. Start Python with
LD_PRELOAD=libasan.so for such a build.
"""

import argparse
import collections
import json
import pathlib
import platform
import random
import re
import tempfile
import time
import tracemalloc

import jax
import numpy as np

from recu_jax import UserError, deploy
from recu_jax.deploy import container
from recu_jax.ops import native
from tests.support.random_networks import file_of, variables_of

MODELS = {"digits_resnet8": (8, 8, 1), "cifar_vgg_small": (16, 16, 3), "cifar_resnet18a": (8, 8, 3)}
SLOW_SECONDS = 60
# A load may allocate MEMORY_FACTOR times the file's bytes, plus MEMORY_BESIDES bytes: for the file, its header as
# Python objects, and its kernels in the backend's layout, padded to whole registers.
MEMORY_FACTOR, MEMORY_BESIDES = 40, 1 << 20
ODD_NUMBERS = (
    b"0", b"-1", b"1", b"2", b"63", b"65", b"4096", b"9223372036854775807", b"18446744073709551616", b"1e308", b"null",
    b"true", b'"x"', b"[]", b"{}", b"NaN",
)  # fmt: skip


def mutate(data: bytes, r: random.Random) -> bytes:
    """Returns `data` after one to four mutations."""
    data = bytearray(data)
    for _ in range(r.randint(1, 4)):
        header_end = 8 + min(int.from_bytes(data[:8], "little"), len(data) - 8)
        r.choice((_bits, _bits, _header_bytes, _number, _number, _operation, _span, _cut))(data, r, header_end)
        if len(data) < 16:
            break
    return bytes(data)


def _bits(data, r, header_end):
    for _ in range(r.choice((1, 1, 8))):
        data[r.randrange(len(data))] ^= 1 << r.randrange(8)


def _header_bytes(data, r, header_end):
    for _ in range(r.choice((1, 1, 4))):
        any_byte = r.random() < 0.2
        data[r.randrange(min(header_end, len(data)))] = r.randrange(256) if any_byte else r.choice(b'019[]{}",:-e')


def _replace_header(data, header_end, text):
    data[:header_end] = len(text).to_bytes(8, "little") + text


def _number(data, r, header_end):
    """Replaces a number in the header. The header's length stays valid."""
    text = bytes(data[8:header_end])
    found = list(re.finditer(rb"\d+", text))
    if found:
        match = r.choice(found)
        _replace_header(data, header_end, text[: match.start()] + r.choice(ODD_NUMBERS) + text[match.end() :])


def _operation(data, r, header_end):
    """Rearranges the list of operations."""
    try:
        index = json.loads(bytes(data[8:header_end]))
        header = json.loads(index["__metadata__"]["recu"])
        entries = header["operations"]
        i, j = r.randrange(len(entries)), r.randrange(len(entries))
    except (ValueError, KeyError, TypeError):
        return
    if r.random() < 0.3:
        entries[i], entries[j] = entries[j], entries[i]
    elif r.random() < 0.3:
        entries.insert(i, entries[j])
    elif r.random() < 0.3:
        del entries[i]
    elif isinstance(entries[i], dict) and isinstance(entries[j], dict):
        field = r.choice(sorted(entries[j]))
        entries[i][field] = entries[j][field]
    index["__metadata__"]["recu"] = json.dumps(header)
    _replace_header(data, header_end, json.dumps(index).encode())


def _span(data, r, header_end):
    """Doubles, moves or removes a part."""
    at, length = r.randrange(len(data)), r.choice((1, 8, 64, 1000))
    part = data[at : at + length]
    if r.random() < 0.5:
        del data[at : at + length]
    if r.random() < 0.5:
        to = r.randrange(len(data) + 1)
        data[to:to] = part


def _cut(data, r, header_end):
    del data[r.randrange(len(data)) :]


def kind(message: str) -> str:
    """Returns an error's message without the parts that differ from file to file."""
    text = message.split("no file of `recu export`: ")[-1]
    text = re.sub(r"^operation \d+ \(.*?\): ", "operation: ", text)
    return re.sub(r"'[^']*'|\[.*?\]|\(.*?\)|\d+", "_", text)[:60]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=300, help="networks of mutated files that are run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kernels", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    backend = native.load(args.kernels)[0] if args.kernels else native.cpu_backend()

    originals = []
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "mutant.recu"
        for name, shape in MODELS.items():
            container.write(path, *file_of(name, variables_of(name, shape)[1], shape))
            originals.append(path.read_bytes())
        result = fuzz(originals, path, backend, args)
    print(json.dumps(result, indent=2))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=2) + "\n")


def fuzz(originals, path, backend, args):
    r, began = random.Random(args.seed), time.monotonic()
    counts, messages = collections.Counter(), collections.Counter()
    slowest, most_memory = 0.0, 0.0
    tracemalloc.start()
    for _ in range(args.mutants):
        original = r.choice(originals)
        data = mutate(original, r)
        path.write_bytes(data)
        tracemalloc.reset_peak()
        before, at = tracemalloc.get_traced_memory()[0], time.monotonic()
        model = None
        try:
            model = deploy.load(path, backend)
            counts["loaded"] += 1
        except UserError as error:
            assert "\n" not in str(error), error
            counts["refused"] += 1
            messages[kind(str(error))] += 1
        allocated = tracemalloc.get_traced_memory()[1] - before
        assert allocated <= MEMORY_FACTOR * len(data) + MEMORY_BESIDES, (allocated, len(data))
        most_memory = max(most_memory, allocated / (len(data) + MEMORY_BESIDES))
        header = 8 + int.from_bytes(data[:8], "little")
        if model and data[:header] != original[:header] and counts["run"] < args.runs:
            counts["run"] += 1
            images = np.zeros((1, *model.image_shape), np.uint8)
            assert model.predict(images).shape == (1, model.num_classes)
        slowest = max(slowest, time.monotonic() - at)
        assert slowest < SLOW_SECONDS, slowest
    return {
        "mutants": args.mutants,
        "seed": args.seed,
        **counts,
        "seconds": time.monotonic() - began,
        "slowest_seconds": slowest,
        "most_memory_per_byte_of_file_and_1_MiB": most_memory,
        "kinds_of_message": len(messages),
        "most_frequent_messages": dict(messages.most_common(25)),
        "kernels": args.kernels.name if args.kernels else "those of the package",
        "backend": backend,
        "versions": {"python": platform.python_version(), "jax": jax.__version__, "numpy": np.__version__},
    }


if __name__ == "__main__":
    main()
