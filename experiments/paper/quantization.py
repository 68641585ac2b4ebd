"""Compares quantization error and entropy at each tau and b: theory, Monte Carlo, and weights of trained networks.

    python experiments/paper/quantization.py [--budget=paper --data_dir=DIR]

The networks are the runs of the recipe, which the other experiments share. The latent weights of their best checkpoints
are standardized and clamped at each tau, and measured as in training (`recu_jax.diagnostics.measures`).

`sweep.py` describes the options.
"""

import functools
import json
import pathlib
import statistics
import sys

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import ml_collections
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments.paper import sweep
from recu_jax import binary_layers, functional
from recu_jax.deploy.trained import read_trained
from recu_jax.diagnostics import measures, theory
from recu_jax.training.recipe import make_model

EXPERIMENT = sweep.Experiment(
    name="quantization",
    title="Quantisation error and entropy against tau and b",
    variants={"the recipe": {}},
)
TAUS = np.round(np.arange(0.60, 1.0001, 0.004), 3)
SCALES = (0.2, float(np.exp(-1)), 1.0, 2.0)
SAMPLES = 2_000_000
SHOWN = (0.816, 0.85, 0.90, 0.95, 0.99, 1.0)


@functools.partial(jax.jit, static_argnames="taus")
def measured(weights, taus):
    """Returns b, a scalar, and two arrays with a number for each of `taus`.

    The arrays are the quantization error in units of b^2 and the entropy in nats.
    """
    scale = functional.laplace_scale(weights)
    counts, largest = measures.histogram(weights, scale), abs(weights).max()

    def at(tau):
        bound = functional.laplace_quantile(scale, tau)
        clipped = ((weights < -bound).sum(), (weights > bound).sum())
        error = measures.quantization_error(weights, scale, bound) / scale**2
        return error, measures.entropy(counts, scale, bound, largest, clipped)

    return scale, *jax.lax.map(at, np.asarray(taus, np.float32))


def curves_of(what, weights, **more):
    """Returns a line of curves.jsonl."""
    scale, error, entropy = (np.asarray(a, float) for a in measured(weights, tuple(TAUS.tolist())))
    least = float(TAUS[error.argmin()])
    return {
        "of": what,
        **more,
        "b": float(scale),
        "least_at": least,
        "error": error.tolist(),
        "entropy": entropy.tolist(),
    }


def trained(chosen, seed):
    """Yields a line of curves.jsonl for each binary layer of the network of one seed."""
    run = read_trained(sweep.workdir_of(chosen, {}, seed))
    model = make_model(ml_collections.ConfigDict(run.config), run.info.num_classes)
    for layer in binary_layers(model, jnp.zeros((1, *run.info.image_shape))):
        weights = layer.kernel_binarizer.standardized(jnp.asarray(layer.leaf(run.variables["params"], "kernel")))
        yield curves_of("trained", weights, seed=seed, layer=layer.path)


def table(lines, chosen, seeds):
    def at(error, tau):
        return float(np.interp(tau, TAUS, error))

    by_kind = {
        f"Monte Carlo, {SAMPLES:,} Laplace weights": [line for line in lines if line["of"] == "monte_carlo"],
        f"layers of {seeds} trained networks": [line for line in lines if line["of"] == "trained"],
    }
    exact = [f"{float(theory.quantization_error(1.0, tau)):.3f}" for tau in SHOWN]
    rows = [
        f"# {EXPERIMENT.title}",
        "",
        f"`python experiments/paper/quantization.py --dataset={chosen.dataset} --epochs={chosen.epochs} "
        f"--seeds={seeds}`. Quantisation error in units of b^2; theory is SPEC.md section 5.",
        "",
        sweep.row(["", "least at tau", *(f"at {tau:g}" for tau in SHOWN)]),
        sweep.row(["---"] * (2 + len(SHOWN))),
        sweep.row(["theory", f"{theory.BEST_TAU:.3f}", *exact]),
    ]
    for name, some in by_kind.items():
        columns = [[line["least_at"] for line in some]] + [[at(line["error"], tau) for line in some] for tau in SHOWN]
        rows.append(sweep.row([name, *(f"{statistics.mean(c):.3f} +- {statistics.stdev(c):.3f}" for c in columns)]))
    rows += [
        "",
        "With alpha = b the error is least where Q = b, whatever the distribution, and Q = b at 1 - 1/2e. "
        "Mean and deviation: over four b, which scale the error by b^2, and over all binary layers of all networks. "
        "Trained weights are no Laplace sample: `laplace_distance` in a run's `diagnostics.jsonl` says how far off.",
        "",
        "![](figure.png)",
    ]
    return "\n".join(rows) + "\n"


def figure(lines, path):
    picture, (left, right) = plt.subplots(1, 2, figsize=(11, 4), dpi=130, layout="constrained")
    some = slice(None, None, 6)
    for line in lines:
        if line["of"] == "trained":
            left.plot(TAUS, line["error"], color="0.6", linewidth=0.7, zorder=1)
            right.plot(TAUS, line["entropy"], color="0.6", linewidth=0.7, zorder=1)
    left.plot(TAUS, theory.quantization_error(1.0, TAUS), color="C0", label="theory")
    for i, line in enumerate(line for line in lines if line["of"] == "monte_carlo"):
        left.plot(TAUS[some], line["error"][some], ".", color="C1", label=None if i else "Monte Carlo, b = 0.2 to 2")
        right.plot(TAUS, theory.entropy(line["b"], TAUS), color=f"C{i}", label=f"b = {line['b']:.2f}")
        right.plot(TAUS[some], line["entropy"][some], ".", color=f"C{i}")
    left.axvline(theory.BEST_TAU, color="C3", linestyle="--", linewidth=1, label=f"least: {theory.BEST_TAU:.3f}")
    left.plot([], [], color="0.6", label="layers of trained networks")
    right.plot([], [], color="0.6", label="layers of trained networks, b* = 2")
    left.set(xlabel="tau", ylabel="quantisation error / b^2")
    right.set(xlabel="tau", ylabel="entropy (nats); lines: theory, dots: Monte Carlo")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    picture.savefig(path)
    plt.close(picture)


def main():
    chosen = sweep.arguments_of(EXPERIMENT)
    seeds = len(sweep.complete(EXPERIMENT, chosen)["the recipe"])
    if not seeds:
        return
    random = np.random.default_rng(0)
    lines = [curves_of("monte_carlo", random.laplace(scale=b, size=SAMPLES).astype(np.float32)) for b in SCALES]
    for seed in range(seeds):
        lines += trained(chosen, seed)
    folder = sweep.results_folder(EXPERIMENT.name, chosen)
    (folder / "curves.jsonl").write_text("".join(json.dumps(_short(line)) + "\n" for line in lines))
    (folder / "README.md").write_text(table(lines, chosen, seeds))
    figure(lines, folder / "figure.png")


def _short(line):
    keys = {key: [float(f"{v:.5g}") for v in line[key]] for key in ("error", "entropy")}
    return {**line, **keys, "tau": TAUS.tolist()}


if __name__ == "__main__":
    main()
