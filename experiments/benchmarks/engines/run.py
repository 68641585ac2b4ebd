"""Times 1-bit networks in recu_jax, and the same networks in other engines: one image, one thread.

    python experiments/benchmarks/engines/run.py --openvino_python=OPENVINO/bin/python --larq_python=LARQ/bin/python \
      --cifar=cifar10.npz --float_run=digits_resnet8=runs/digits_float --out=beside_others.json

This interpreter needs `pip install 'recu_jax[onnx]'`. The others need no recu_jax, and an environment of their own:

- OpenVINO: `pip install openvino nncf`.
- Larq Compute Engine: `pip install larq-compute-engine larq tensorflow tf-keras`, then `pip install 'numpy<2'`.

The sides are `recu`, `onnxruntime`, `openvino`, `openvino_no_amx` (int8 without AMX) and `larq`. Each is a process of
its own on one core. The sides take turns. A turn's time is that of its fastest call. An engine that is missing, or that
cannot load a network, is recorded with its error.

The 1-bit networks are `recu_jax.pretrained` where there is one, else untrained. Their float twins have real weights and
activations. `--float_run` gives a trained twin: `recu_jax.main` with `--config.conv=float`. `--cifar` is a file as
`--config.dataset=npz` takes it. Where a network is trained, each engine also predicts all test images.
"""

import argparse
import collections
import contextlib
import json
import pathlib
import statistics
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3]))

from experiments.benchmarks.turns import Worker, spread, when_and_where

WORKERS = pathlib.Path(__file__).with_name("workers.py")
OURS = "recu, 1-bit"
TRAINED_1_BIT = ("1-bit", "1-bit ONNX", "BinaryConvolution")


def fastest_int8(seconds, side=None):
    """Returns the name of the int8 case with the least median; of `side`, or of all sides. None without such a case."""
    found = [name for name in seconds if ", int8" in name and (side is None or name.startswith(f"{side},"))]
    return min(found, key=lambda name: statistics.median(seconds[name]), default=None)


def summarize(seconds):
    """Returns the times of one network.

    Args:
      seconds: of each turn, by "side, case". The turns of one index belong to one round.
    """
    cases = {
        name: {
            "milliseconds": spread([1e3 * s for s in values]),
            "times_recu": spread([s / ours for s, ours in zip(values, seconds[OURS], strict=True)]),
        }
        for name, values in seconds.items()
    }
    without_amx = {name: values for name, values in seconds.items() if not name.startswith("openvino,")}
    fastest = {"fastest_int8": fastest_int8(seconds), "fastest_int8_without_amx": fastest_int8(without_amx)}
    return {"cases": cases} | {key: name for key, name in fastest.items() if name}


def agreement(classes, labels, trained):
    """Compares predictions.

    Args:
      classes: predicted classes of the test images, by "side, case".
      labels: the right classes.
      trained: which of the networks "1-bit" and "float" are trained.

    Returns:
      By "side, case": the share that agrees with recu_jax's (1-bit), or with those of the same engine in float32; and,
      of a trained network, the accuracy.
    """

    def same(a, b):
        return sum(x == y for x, y in zip(a, b, strict=True)) / len(a)

    found = {}
    for name, predicted in classes.items():
        side, _, case = name.partition(", ")
        binary = case in TRAINED_1_BIT
        reference = OURS if binary else f"{side.removesuffix('_no_amx')}, float32"
        found[name] = {"agreement": same(predicted, classes[reference])} if reference in classes else {}
        if trained["1-bit" if binary else "float"]:
            found[name]["accuracy"] = same(predicted, labels)
    return found


def named(arguments):
    """Returns a dict of arguments of the form NAME=VALUE."""
    return dict(argument.split("=", 1) for argument in arguments)


def take_turns(workers, repeats):
    """Returns the seconds of each turn by network and "side, case", and the largest share of other processes."""
    seconds, shares = collections.defaultdict(lambda: collections.defaultdict(list)), [0.0]
    networks = list(dict.fromkeys(network for worker in workers for network, _ in worker.versions["cases"]))
    for _ in range(repeats):
        for network in networks:
            for worker in workers:
                for of, case in worker.versions["cases"]:
                    if of == network:
                        turn = worker.turn(json.dumps([network, case, 0]))
                        seconds[network][f"{worker.side}, {case}"].append(turn["seconds"])
                        shares.append(turn["share_of_others"])
    return seconds, max(shares)


def predicted(workers, network, count):
    return {
        f"{worker.side}, {case}": worker.turn(json.dumps([network, case, count]))["classes"]
        for worker in workers
        for of, case in worker.versions["cases"]
        if of == network
    }


def measure(workers, images, repeats, test_images):
    """Returns the record, without the date and the machine."""
    missing = {w.side: w.versions["missing"] for w in workers if "missing" in w.versions}
    workers = [worker for worker in workers if worker.side not in missing]
    seconds, share = take_turns(workers, repeats)
    print("all turns done; predictions follow", file=sys.stderr)
    networks = {name: {"trained": images[name].trained, **summarize(of)} for name, of in seconds.items()}
    for name, of in networks.items():
        labels = images[name].labels.tolist()[:test_images]
        if any(of["trained"].values()) and labels:
            of["test_images"] = len(labels)
            classes = predicted(workers, name, len(labels))
            for case, compared in agreement(classes, labels, of["trained"]).items():
                of["cases"][case] |= compared
    return {
        "versions": {worker.side: worker.versions["versions"] for worker in workers},
        "missing": missing,
        "failed": {f"{w.side}, {case}": error for w in workers for case, error in w.versions["failed"].items()},
        "largest_share_of_others": share,
        "networks": networks,
        "seconds_of_turns": seconds,
    }


@contextlib.contextmanager
def kept(folder):
    """Gives `folder`, or a temporary folder."""
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield pathlib.Path(temporary)


def main():
    from experiments.benchmarks.engines import files, workers

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=files.NETWORKS, default=list(files.NETWORKS))
    parser.add_argument("--repeats", type=int, default=9, help="turns of each side")
    parser.add_argument("--openvino_python", default=sys.executable, metavar="PATH")
    parser.add_argument("--larq_python", default=sys.executable, metavar="PATH")
    parser.add_argument("--cifar", metavar="FILE.npz", help="CIFAR-10; without it, pixels are random")
    parser.add_argument("--float_run", action="append", default=[], metavar="NAME=WORKDIR")
    parser.add_argument("--test_images", type=int, metavar="N", help="predict the first N; all by default")
    parser.add_argument("--files", type=pathlib.Path, metavar="FOLDER", help="keep the networks' files, and take them")
    parser.add_argument("--out", type=pathlib.Path, metavar="FILE.json")
    args = parser.parse_args()
    runs, images = named(args.float_run), {}
    cifar = ("npz", args.cifar) if args.cifar else None
    with kept(args.files) as folder:
        for name in args.networks:
            data_of = {"digits": ("digits", None), "cifar": cifar}.get(name.partition("_")[0])
            if not (folder / f"{name}.npz").exists():
                files.write(name, folder, data_of, runs.get(name))
            images[name] = workers.Images(folder, name)
        pythons = {side: args.openvino_python for side in workers.ENGINES if side.startswith("openvino")}
        pythons["larq"] = args.larq_python
        sides = [Worker(side, pythons.get(side, sys.executable), WORKERS, folder) for side in workers.ENGINES]
        record = measure(sides, images, args.repeats, args.test_images)
        for worker in sides:
            worker.close()
    record = when_and_where() | record
    print_table(record)
    if args.out:
        # Few people read the seconds of single turns, so these take one line only.
        turns = json.dumps(record.pop("seconds_of_turns"))
        text = json.dumps(record, indent=2).removesuffix("\n}")
        args.out.write_text(f'{text},\n  "seconds_of_turns": {turns}\n}}\n')


def print_table(record):
    for name, of in record["networks"].items():
        for case, numbers in of["cases"].items():
            ms, times = numbers["milliseconds"], numbers["times_recu"]
            more = " ".join(f"{key} {numbers[key]:.2%}" for key in ("accuracy", "agreement") if key in numbers)
            print(f"{name:<18} {case:<28} {ms['median']:>8.3f} ms {times['median']:>6.2f} times recu  {more}")
    for case, error in (record["missing"] | record["failed"]).items():
        print(f"{case}: {error}")


if __name__ == "__main__":
    main()
