"""Searches for a recipe that trains `cifar_resnet20` in few epochs. Each trial changes one thing.

    python experiments/recipe/search.py --data=FILE.npz --runs=DIR --out=trials.jsonl [--parallel=6] [--epochs=20]

A trial is a run of `recu_jax.main` of its own. It trains on 45,000 training images of CIFAR-10 and is tested on the
other 5,000 (`config.held_out`), so the test set stays unseen. `TRIALS` says for each trial what it changes and what was
expected of it, in points of held-out top-1. The same command continues where it was stopped. `--names` chooses trials,
and `--also` sets config fields in all of them. Some trials start from another trial, or learn from it. They need its
workdir in `--runs`: `--float_run` is that of `float`, and `--stage1_run` that of `binary activations`.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments import runs as processes

HELD_OUT = 5000
COMMON = {
    "held_out": HELD_OUT, "dtype": "bfloat16", "warmup_epochs": 1, "eval_batch_size": 1000, "diagnostics": False,
    "tensorboard": False, "report": False, "checkpoint_every_epochs": 1000,
}  # fmt: skip
_EMPIRICAL = "experiments.recipe.empirical"
_MUON = {"latent_optimizer": "muon"}
_FLOAT_RUN, _STAGE1_RUN = "FLOAT_RUN", "STAGE1_RUN"
# In `TRIALS`, these words stand for the workdir of another trial. For each: the option that gives it, and that trial.
_WORKDIRS = {_FLOAT_RUN: ("float_run", "float"), _STAGE1_RUN: ("stage1_run", "binary activations")}
_TAUGHT = {"teacher": _FLOAT_RUN, "teacher_model": "cifar_resnet20", "teacher_nonlinearity": "rprelu"}
_ADAM = {"latent_optimizer": "adam", "latent_weight_decay": 0.0}
# By name of a trial: the config fields that it changes, and the result that was expected before it ran.
TRIALS = {
    "paper": ({"warmup_epochs": 5}, "the paper's recipe; 70"),
    "one epoch of warm-up": ({}, "+1: more epochs at a high rate. The trials below have it too"),
    "latent Adam 0.001": ({**_ADAM, "latent_learning_rate": 1e-3}, "+3: a step does not depend on the gradient's size"),
    "latent Adam 0.003": ({**_ADAM, "latent_learning_rate": 3e-3}, "+2"),
    "latent Adam 0.0003": ({**_ADAM, "latent_learning_rate": 3e-4}, "+2"),
    "all Adam 0.003": ({"optimizer": "adam", "learning_rate": 3e-3, "weight_decay": 0.0}, "+2"),
    "latent decay 0.002": ({"latent_weight_decay": 2e-3}, "+1: inertia of 26 epochs instead of 103"),
    "latent decay 0": ({"latent_weight_decay": 0.0}, "-1"),
    "latent Adam 0.01": ({**_ADAM, "latent_learning_rate": 1e-2}, "+3: the smaller rates flip too few signs"),
    "Muon 0.005": ({**_MUON, "latent_learning_rate": 0.005}, "0"),
    "Muon 0.01": ({**_MUON, "latent_learning_rate": 0.01}, "+2"),
    "Muon 0.02": ({**_MUON, "latent_learning_rate": 0.02}, "+2: all directions of a kernel turn at the same speed"),
    "Muon 0.05": ({**_MUON, "latent_learning_rate": 0.05}, "+2"),
    "no hardtanh": ({"nonlinearity": "identity"}, "+3: the gradient of the shortcuts passes where a sum exceeds 1"),
    "RPReLU": ({"nonlinearity": "rprelu"}, "+4: shifts and slopes of ReActNet"),
    "rate 0.3": ({"learning_rate": 0.3}, "+1: more flips"),
    "rate 0.03": ({"learning_rate": 0.03}, "+1: fewer flips"),
    "latent rate 0.03": ({"latent_learning_rate": 0.03}, "+1: fewer flips"),
    "latent rate 0.01": ({"latent_learning_rate": 0.01}, "0"),
    "linear": ({"lr_schedule": "linear"}, "0"),
    "empirical": ({"weight_binarizer": f"{_EMPIRICAL}:PerLayer"}, "+0.5: the clamp acts to the end"),
    "empirical per channel": ({"weight_binarizer": f"{_EMPIRICAL}:PerChannel"}, "+0.5"),
    "no clamp": ({"clamp": False}, "-0.5"),
    "tau to 0.9": ({"tau_min": 0.75, "tau_max": 0.9}, "+0.5: more weights near 0"),
    "batch 128": ({"batch_size": 128}, "+2: twice the steps"),
    "batch 64": ({"batch_size": 64}, "+4: four times the steps"),
    "batch 32": ({"batch_size": 32}, "+5: eight times the steps"),
    "OvSW": ({"ovsw_delta": 0.04, "ovsw_lambda": 9e-4}, "+2: a short run flips too few signs, and OvSW adds flips"),
    "average 0.99": ({"ema_decay": 0.99}, "+1: the average of flipping weights is steadier"),
    "crops of 2": ({"crop_padding": 2}, "+0.5: few epochs need little augmentation"),
    "flips alone": ({"crop_padding": 0}, "+1: as above"),
    "reflected crops of 2": ({"crop_padding": 2, "crop_fill": "reflection"}, "+0.5: no black edges"),
    "momentum 0.95": ({"momentum": 0.95}, "0"),
    "clipped sign of inputs": ({"activation_binarizer": "clipped_sign"}, "0"),
    "label smoothing 0.1": ({"label_smoothing": 0.1}, "0"),
    "mean alpha": ({"alpha": "mean"}, "-0.5"),
    "float": ({"conv": "float", "learning_rate": 0.05}, "85: the full-precision twin, for the trials below"),
    "taught": (_TAUGHT, "+1.5: outputs of the twin say more of an image than its label"),
    "from float": ({"init_from": _FLOAT_RUN}, "+0.5, as in the paper"),
    "taught, from float": ({**_TAUGHT, "init_from": _FLOAT_RUN}, "+2"),
    "binary activations": (
        {"conv": "binary_activations", "learning_rate": 0.05, **_TAUGHT, "init_from": _FLOAT_RUN},
        "81: the first of two stages, for the trial below",
    ),
    "taught, from stage 1": ({**_TAUGHT, "init_from": _STAGE1_RUN}, "+4: its weights know binary activations already"),
}  # fmt: skip


def run(name, fields, arguments):
    """Trains a trial, from its checkpoint if it has one. Returns its row, or None if the trial did not finish."""
    also = "".join(f"-{field}={value}" for field, value in arguments.also.items())
    workdir = arguments.runs / f"{name.replace(' ', '_')}-{arguments.epochs}-{arguments.seed}{also}"
    workdir.parent.mkdir(parents=True, exist_ok=True)
    values = {**COMMON, **arguments.also, **fields, "epochs": arguments.epochs, "seed": arguments.seed}
    values = {field: arguments.workdirs.get(value, value) for field, value in values.items()}
    steps = (50_000 - values["held_out"]) // values.get("batch_size", 256)
    if arguments.platform != "cpu":
        values["steps_per_dispatch"] = steps
    data = ["--config=configs/cifar10.py", "--config.dataset=npz", f"--config.data_dir={arguments.data}"]
    began = time.monotonic()
    code = processes.start(
        [*data, *(f"--config.{k}={v}" for k, v in values.items())],
        workdir,
        cache=None if "JAX_COMPILATION_CACHE_DIR" in os.environ else arguments.runs / "cache",
        environment={"JAX_PLATFORMS": arguments.platform},
    ).wait()
    rows = processes.rows(workdir)
    if code or not rows or rows[-1]["epoch"] < arguments.epochs:
        print(f"{name}: status {code}; {processes.log(workdir)[-300:]}", flush=True)
        return None
    return {
        "name": name, "epochs": arguments.epochs, "seed": arguments.seed, "fields": fields, "also": arguments.also,
        "held_out_top1": rows[-1]["test_top1"], "best_epoch_top1": max(row["test_top1"] for row in rows),
        "train_top1": rows[-1]["train_top1"], "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="a file for the data set npz")
    parser.add_argument("--runs", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--names", nargs="+", choices=TRIALS, default=list(TRIALS))
    parser.add_argument("--also", type=json.loads, default={}, help="JSON, config fields of all trials")
    for option, trial in _WORKDIRS.values():
        parser.add_argument(f"--{option}", type=pathlib.Path, help=f"workdir of the trial `{trial}`")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--platform", default=os.environ.get("JAX_PLATFORMS", "cpu"))
    arguments = parser.parse_args()
    arguments.data, arguments.runs = arguments.data.resolve(), arguments.runs.resolve()
    arguments.workdirs = {}
    for stands_for, (option, first) in _WORKDIRS.items():
        needs = [name for name in arguments.names if stands_for in TRIALS[name][0].values()]
        workdir = getattr(arguments, option)
        if needs and workdir is None:
            parser.error(f"{needs[0]} needs --{option}: train the trial `{first}` first, and give its workdir")
        arguments.workdirs[stands_for] = workdir and workdir.resolve()
    done = set()
    if arguments.out.exists():
        rows = map(json.loads, arguments.out.read_text().splitlines())
        done = {r["name"] for r in rows if all(r[key] == getattr(arguments, key) for key in ("epochs", "seed", "also"))}
    wanted = [name for name in arguments.names if name not in done]
    with concurrent.futures.ThreadPoolExecutor(arguments.parallel) as pool:
        futures = [pool.submit(run, name, TRIALS[name][0], arguments) for name in wanted]
        for future in concurrent.futures.as_completed(futures):
            if row := future.result():
                with open(arguments.out, "a") as file:
                    file.write(f"{json.dumps(row)}\n")
                print(f"{row['held_out_top1']:6.2f} {row['name']} ({row['seconds']} s)", flush=True)


if __name__ == "__main__":
    main()
