"""Trains the runs of an experiment, one per variant and seed, and writes a table and a figure of the results.

    python experiments/paper/SCRIPT.py [--budget=small|paper] [--dataset=...] [--epochs=N] [--seeds=N] [--most_runs=N]

Each run is a process of its own. Its folder in --runs is named after the config fields that differ from the recipe, so
experiments share runs. The same command continues where it was stopped. With --most_runs=N it trains at most N runs.
Before it ends, it writes the results of the seeds that all variants have finished.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from scipy import stats

from experiments import runs as processes
from recu_jax.report.runs import Run, read_run

REPOSITORY = processes.REPOSITORY
# Arguments of `recu_jax.main` for each data set; {data} stands for --data_dir.
DATASETS = {
    "digits": processes.RECORDED_DIGITS,
    "cifar10": ["--config=configs/cifar10.py", "--config.data_dir={data}"],
    # A tenth of CIFAR-10 needs a smaller network, and smaller batches to have enough steps.
    "cifar10_5000": [
        "--config=configs/cifar10.py", "--config.dataset=npz", "--config.data_dir={data}",
        "--config.model=cifar_resnet8", "--config.batch_size=100", "--config.warmup_epochs=1",
    ],
}  # fmt: skip
BUDGETS = {"small": {"dataset": "digits", "epochs": 10}, "paper": {"dataset": "cifar10", "epochs": 600}}
SIGNIFICANT = 0.05


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The variants of a recipe to compare, and what to show of them.

    Attributes:
      name: folder of the results.
      title: headline of the table.
      variants: by label, the config fields that the variant changes. All other variants are compared with the first.
      measures: by heading, a function that returns a run's number for a further column, or None if the run has none.
      draw: draws the right panel of the figure, from its axes and the runs by label. None draws test top-1 by epoch.
      datasets: names of the data sets that the experiment can run on.
    """

    name: str
    title: str
    variants: Mapping[str, Mapping[str, Any]]
    measures: Mapping[str, Callable[[Run], float | None]] = dataclasses.field(default_factory=dict)
    draw: Callable[[plt.Axes, Mapping[str, Sequence[Run]]], None] | None = None
    datasets: Sequence[str] = tuple(DATASETS)


def arguments_of(experiment: Experiment, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line, and takes data set and epochs from the budget if they are not given."""
    parser = argparse.ArgumentParser(description=experiment.title)
    parser.add_argument("--budget", choices=BUDGETS, default="small")
    parser.add_argument("--dataset", choices=experiment.datasets)
    parser.add_argument("--data_dir", help="folder of TFDS, or for cifar10_5000 the file of cifar10_subset.py")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, which begin at 0")
    parser.add_argument("--runs", type=pathlib.Path, default=REPOSITORY / "runs" / "paper")
    parser.add_argument("--out", type=pathlib.Path, default=REPOSITORY / "experiments" / "results")
    parser.add_argument("--most_runs", type=int, default=10**6, help="train so many runs now, at most")
    chosen = parser.parse_args(argv)
    for name, value in BUDGETS[chosen.budget].items():
        if getattr(chosen, name) is None:
            setattr(chosen, name, value)
    if chosen.dataset not in experiment.datasets:
        parser.error(f"--dataset must be one of {', '.join(experiment.datasets)}")
    if chosen.dataset != "digits" and chosen.data_dir is None:
        parser.error("--data_dir is needed")
    return chosen


def workdir_of(chosen: argparse.Namespace, fields: Mapping[str, Any], seed: int) -> pathlib.Path:
    """Returns the folder of a run. Its name does not contain the experiment, so experiments share runs."""
    changes = ",".join(f"{k}={v}" for k, v in sorted(fields.items())) or "recipe"
    return chosen.runs / f"{chosen.dataset}-{chosen.epochs}" / f"{changes}-{seed}"


def train(chosen: argparse.Namespace, fields: Mapping[str, Any], seed: int) -> None:
    """Trains one run to its end, from its last checkpoint if it has one."""
    workdir = workdir_of(chosen, fields, seed)
    workdir.parent.mkdir(parents=True, exist_ok=True)
    data = str(pathlib.Path(chosen.data_dir).resolve()) if chosen.data_dir else None
    options = {"epochs": chosen.epochs, "seed": seed, "tensorboard": False, "report": False, **fields}
    command = [part.format(data=data) for part in DATASETS[chosen.dataset]]
    command += [f"--config.{name}={value}" for name, value in options.items()]
    # Programs that do not depend on the seed, such as the evaluation, are compiled once for all runs.
    code = processes.start(command, workdir, cache=chosen.runs / "cache").wait()
    if code:
        last = (processes.log(workdir).splitlines() or ["nothing was printed"])[-1]
        sys.exit(f"{workdir} ended with status {code}: {last}")


def finished(chosen: argparse.Namespace, fields: Mapping[str, Any], seed: int) -> Run | None:
    """Returns the run if it has trained all epochs, else None."""
    workdir = workdir_of(chosen, fields, seed)
    if not (workdir / "metrics.jsonl").exists() or not (workdir / "metrics.jsonl").stat().st_size:
        return None
    run = read_run(workdir)
    return run if run.rows[-1]["epoch"] == chosen.epochs else None


def complete(experiment: Experiment, chosen: argparse.Namespace) -> dict[str, list[Run]]:
    """Trains missing runs, seed by seed. Returns by label the runs of the seeds that all variants have finished."""
    wanted = [(seed, fields) for seed in range(chosen.seeds) for fields in experiment.variants.values()]
    missing = [(seed, fields) for seed, fields in wanted if finished(chosen, fields, seed) is None]
    for seed, fields in missing[: chosen.most_runs]:
        print(f"{experiment.name}: {workdir_of(chosen, fields, seed).name}", flush=True)
        train(chosen, fields, seed)
    print(f"{experiment.name}: {max(0, len(missing) - chosen.most_runs)} runs missing", flush=True)
    found = {seed: [finished(chosen, f, seed) for f in experiment.variants.values()] for seed in range(chosen.seeds)}
    whole = [runs for runs in found.values() if all(runs)]
    return {label: [runs[i] for runs in whole] for i, label in enumerate(experiment.variants)}


def run(experiment: Experiment, argv: Sequence[str] | None = None) -> None:
    """Runs an experiment from the command line: trains the missing runs, then writes runs.jsonl, README.md, figure.png.

    Writes nothing while no seed is finished for all variants.
    """
    chosen = arguments_of(experiment, argv)
    by_label = complete(experiment, chosen)
    if not all(by_label.values()):
        return
    folder = results_folder(experiment.name, chosen)
    lines = [row for label, some in by_label.items() for r in some for row in _lines(label, r)]
    (folder / "runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "README.md").write_text(table(experiment, by_label, chosen))
    figure(experiment, by_label, folder / "figure.png")


def results_folder(name: str, chosen: argparse.Namespace) -> pathlib.Path:
    folder = chosen.out / name / chosen.dataset
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _lines(label, run):
    """Yields one object per epoch: variant, seed, metrics, and the means of the diagnostics over the layers."""
    measured = {row["epoch"]: layer_means(row) for row in run.diagnostics}
    for row in run.rows:
        yield {"variant": label, "seed": run.config["seed"], **row, **measured.get(row["epoch"], {})}


def layer_means(row: Mapping[str, Any]) -> dict[str, float]:
    """Returns the means over the layers of one row of diagnostics.jsonl."""
    means = {}
    for key in ("flipped", "clipped", "dead", "laplace_distance", "in_window"):
        values = [layer[key] for layer in row["layers"].values() if layer.get(key) is not None]
        if values:
            means[key] = float(f"{statistics.mean(values):.5g}")
    return means


def mean_over_epochs(key: str) -> Callable[[Run], float | None]:
    """Returns a function of a run: the mean of the diagnostic `key` over layers and epochs, in percent."""

    def measure(run):
        values = [means[key] for means in map(layer_means, run.diagnostics) if key in means]
        return 100 * statistics.mean(values) if values else None

    return measure


def table(experiment: Experiment, by_label: Mapping[str, Sequence[Run]], chosen: argparse.Namespace) -> str:
    """Returns the README.md: a table of mean and standard deviation over the seeds for each variant.

    The last column says whether the difference from the first row is within the noise.
    """
    measures = {
        "test top-1 (%)": lambda run: run.rows[-1]["test_top1"],
        "best (%)": lambda run: run.best["test_top1"],
        "train loss": lambda run: run.rows[-1]["train_loss"],
        **experiment.measures,
    }
    first, *_ = by_label.values()
    seeds = len(first)
    every = [run for runs in by_label.values() for run in runs]
    measures = {name: of for name, of in measures.items() if any(of(run) is not None for run in every)}
    header = ["", *measures, "against the first row (points)"]
    lines = [f"# {experiment.title}", "", _how(chosen, first, seeds), "", row(header), row(["---"] * len(header))]
    for label, runs in by_label.items():
        cells = [_spread([measure(run) for run in runs]) for measure in measures.values()]
        lines.append(row([label, *cells, "" if runs is first else _difference(first, runs)]))
    lines += [
        "",
        f"Mean and deviation over {seeds} seeds. The last column is the difference in test top-1 after the last epoch, "
        f"with the p of Welch's t-test; if p is {SIGNIFICANT} or more, it is within the noise. The p values are not "
        "corrected for the number of rows: of twenty variants without an effect, about one will seem to have one.",
        "",
        "![](figure.png)",
    ]
    return "\n".join(lines) + "\n"


def _how(chosen, runs, seeds):
    start = runs[0].starts[-1]
    seconds = statistics.median(sum(row["seconds"] for row in run.diagnostics) for run in runs)
    what = " ".join(f"{k} {v}" for k, v in start["versions"].items())
    script, cores = pathlib.Path(sys.argv[0]).name, start["hardware"]["cores"]
    return (
        f"`python experiments/paper/{script} --dataset={chosen.dataset} --epochs={chosen.epochs} --seeds={seeds}`: "
        f"{what}; {cores} core{'s' if cores > 1 else ''} of an {start['hardware']['processor']}, {seconds:.0f} s a run."
    )


def row(cells: Sequence[Any]) -> str:
    """Returns a row of a Markdown table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def _spread(values):
    """Formats mean and standard deviation. If some seeds lack the number, also says how many have it."""
    there = [v for v in values if v is not None]
    if not there:
        return "none"
    mean = statistics.mean(there)
    shown = f"{mean:.3g}" if abs(mean) < 10 else f"{mean:.2f}"
    if len(there) > 1:
        shown += f" +- {statistics.stdev(there):.2g}"
    return shown if len(there) == len(values) else f"{shown} ({len(there)} of {len(values)})"


def _difference(first, runs):
    a, b = ([run.rows[-1]["test_top1"] for run in some] for some in (first, runs))
    difference = f"{statistics.mean(b) - statistics.mean(a):+.2f}"
    if len(a) < 2:
        return difference
    if len({*a, *b}) == 1:
        return f"{difference}, the same"
    p = stats.ttest_ind(a, b, equal_var=False).pvalue
    return f"{difference}, p {p:.2f}: {'more than noise' if p < SIGNIFICANT else 'within the noise'}"


def figure(experiment: Experiment, by_label: Mapping[str, Sequence[Run]], path: pathlib.Path) -> None:
    """Writes a figure: each seed's top-1 with mean and deviation, and beside it what `experiment.draw` draws."""
    height = max(3.4, 1.4 + 0.32 * len(by_label))
    picture, (left, right) = plt.subplots(1, 2, figsize=(11, height), dpi=130, layout="constrained")
    for i, runs in enumerate(by_label.values()):
        values = [run.rows[-1]["test_top1"] for run in runs]
        colour = f"C{i % 10}"
        deviation = statistics.stdev(values) if len(values) > 1 else 0
        left.errorbar(statistics.mean(values), i, xerr=deviation, fmt="o", color=colour, capsize=3)
        left.plot(values, [i] * len(values), "|", color=colour, alpha=0.6)
    left.set_yticks(range(len(by_label)), by_label)
    left.set_ylim(len(by_label) - 0.4, -0.6)
    left.set_xlabel("test top-1 after the last epoch (%): seeds, mean, deviation")
    (experiment.draw or draw_accuracy)(right, by_label)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    left.set_title(experiment.title, fontsize=10, loc="left")
    picture.savefig(path)
    plt.close(picture)


def draw_accuracy(axes: plt.Axes, by_label: Mapping[str, Sequence[Run]]) -> None:
    """Draws test top-1 by epoch, as the mean over the seeds."""
    draw_by_epoch(axes, by_label, lambda run: [row["test_top1"] for row in run.rows])
    axes.set_ylabel("test top-1 (%), mean of seeds")


def draw_by_epoch(
    axes: plt.Axes, by_label: Mapping[str, Sequence[Run]], values: Callable[[Run], Sequence[float]]
) -> None:
    """Draws a line for each variant: the mean over the seeds of `values(run)`, which has one number per epoch."""
    for i, (label, runs) in enumerate(by_label.items()):
        columns = list(zip(*(values(run) for run in runs), strict=True))
        epochs = [row["epoch"] for row in runs[0].rows]
        axes.plot(epochs, [statistics.mean(c) for c in columns], color=f"C{i % 10}", label=label, linewidth=1.5)
    axes.set_xlabel("epoch")
    axes.legend(frameon=False, fontsize=7)
