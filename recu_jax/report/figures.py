"""Makes Plotly's figures of runs, as dicts for JSON: `{"id", "title", "meaning", "data", "layout"}`.

`page.js` sets the colors of text, grid and background by the browser's light or dark scheme.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from recu_jax.diagnostics import DEAD_CROSSING, DEAD_EPOCHS, measures
from recu_jax.report.runs import Run

# These colors are distinguishable on white and on black.
COLORS = ("#3b82f6", "#f97316", "#10b981", "#a855f7", "#ef4444", "#14b8a6", "#eab308", "#ec4899")
# What each curve shows when a run goes well and when it does not.
CURVES = {
    "loss": "Good: both fall and stay close. Bad: test rises while train falls.",
    "top1": "Good: test rises to the end. Bad: train rises and test does not.",
    "learning_rate": "Good: it ends near 0, so that signs settle. Bad: it ends high; test accuracy then jumps about.",
    "tau": "Good: it rises from tau_min to tau_max. Bad: 1 from the start, as nothing is then clipped and revived.",
}
# For each measure: the title, what the figure shows, and what a good and a bad run look like.
HEAT_MAPS = {
    "flipped": (
        "Flip ratio",
        "Weights with another sign than an epoch ago.",
        "Good: some percent while the rate is high, little at the end. Bad: 0 early, or as many at the end.",
    ),
    "clipped": (
        "Clipped",
        "Weights beyond the quantile Q(tau).",
        "Good: near 2(1 - tau). Bad: far from it for many epochs: the weights are not Laplace distributed.",
    ),
    "dead": (
        "Dead",
        f"Weights without a flip for {DEAD_EPOCHS} epochs that, at the pace of this epoch and the full learning rate, "
        f"would need more than {DEAD_CROSSING} epochs to reach 0.",
        "Good: few. Bad: more and more while the rate is high: these weights no longer learn.",
    ),
}
HISTOGRAM = "Good: the bars follow the curve. Bad: they do not; the columns of theory below then say little."
# Largest number of epochs whose histograms are in the page.
_HISTOGRAM_EPOCHS = 12

Figure = dict[str, Any]


def curves(runs: Sequence[Run]) -> list[Figure]:
    """Makes figures of loss, accuracy, learning rate and tau by epoch. Each figure shows all runs."""
    alone = len(runs) == 1
    dotted = "" if alone else "Dotted: train. "
    loss, top1 = (_train_and_test(runs, what, alone) for what in ("loss", "top1"))
    rate = [_line(run, "learning_rate", COLORS[i % len(COLORS)]) for i, run in enumerate(runs)]
    tau = [_line(run, "tau", COLORS[i % len(COLORS)]) for i, run in enumerate(runs)]
    return [
        # With several runs there is no legend, because the table above the figures shows the color of each run.
        _figure("loss", "Loss", loss, legend=alone, meaning=dotted + CURVES["loss"]),
        _figure("top1", "Top-1 accuracy (%)", top1, legend=alone, meaning=dotted + CURVES["top1"]),
        _figure("learning_rate", "Learning rate", rate, meaning=CURVES["learning_rate"]),
        _figure("tau", "tau", tau, meaning=CURVES["tau"]),
    ]


def _train_and_test(runs, what, alone):
    lines = []
    for i, run in enumerate(runs):
        colors = COLORS[:2] if alone else (COLORS[i % len(COLORS)],) * 2
        for part, color in zip(("test", "train"), colors, strict=True):
            if any(f"{part}_{what}" in row for row in run.rows):
                name = part if alone else f"{run.name}, {part}"
                lines.append(_line(run, f"{part}_{what}", color, name, "solid" if part == "test" else "dot"))
    return lines


def _line(run, key, color, name=None, dash="solid"):
    epochs, values = [row["epoch"] for row in run.rows], [row.get(key) for row in run.rows]
    return _trace(epochs, values, color, name or run.name, dash)


def _trace(x, y, color, name, dash="solid"):
    y = [_short(v) for v in y]
    # Short lines have markers, because a line of one point would be invisible without them.
    mode = "lines+markers" if len(x) < 40 else "lines"
    return {
        "type": "scatter", "mode": mode, "name": name, "x": x, "y": y,
        "line": {"color": color, "dash": dash, "width": 2}, "marker": {"size": 4},
    }  # fmt: skip


def heat_maps(run: Run) -> list[Figure]:
    """Makes heat maps of flip ratio, clipped share and dead share, in percent. Rows are layers, columns are epochs."""
    epochs = [row["epoch"] for row in run.diagnostics]
    found = []
    for key, (title, *meaning) in HEAT_MAPS.items():
        layers = [layer for layer in run.layers if key in run.diagnostics[-1]["layers"][layer]]
        if not layers:
            continue
        shares = [[_percent(row["layers"].get(layer, {}).get(key)) for row in run.diagnostics] for layer in layers]
        data: dict[str, Any] = {
            "type": "heatmap", "x": epochs, "y": layers, "z": shares, "customdata": shares, "colorscale": "Viridis",
            "zmin": 0, "colorbar": {"thickness": 10, "outlinewidth": 0, "ticksuffix": "%"},
            "hovertemplate": "%{y}, epoch %{x}: %{customdata}%<extra></extra>",
        }  # fmt: skip
        if key == "flipped":
            # Logarithmic: the share falls from a quarter to a ten-thousandth of the weights in one run.
            data |= {"z": [[_logarithm(v) for v in row] for row in shares], "zmin": -2}
            data["colorbar"] |= {"tickvals": [-2, -1, 0, 1, 2], "ticktext": ["0.01%", "0.1%", "1%", "10%", "100%"]}
        # Plotly ignores zmin without zmax.
        data["zmax"] = max([v for row in data["z"] for v in row if v is not None], default=0) or 1
        figure = _figure(key, title, [data], meaning=" ".join(meaning), height=130 + 17 * len(layers))
        figure["layout"]["yaxis"] |= {"autorange": "reversed", "type": "category", "dtick": 1, "showgrid": False}
        found.append(figure)
    return found


def layer_means(runs: Sequence[Run]) -> list[Figure]:
    """Makes a figure for each measure that `heat_maps` shows, with a curve for each run.

    A curve is the mean over the layers, in percent, by epoch.
    """
    found = []
    for key, (title, *meaning) in HEAT_MAPS.items():
        lines = [
            _trace([row["epoch"] for row in run.diagnostics], _means(run, key), COLORS[i % len(COLORS)], run.name)
            for i, run in enumerate(runs)
            if run.diagnostics
        ]
        if lines:
            found.append(_figure(f"{key}_means", f"{title} (%), mean over layers", lines, meaning=" ".join(meaning)))
    return found


def _means(run, key):
    means = []
    for row in run.diagnostics:
        values = [v[key] for v in row["layers"].values() if v.get(key) is not None]
        means.append(100 * sum(values) / len(values) if values else None)
    return means


def histograms(run: Run) -> dict[str, Any] | None:
    """Returns the data from which the page draws the histogram of a chosen layer. None if the run has no histograms.

    The data hold the counts, the Laplace scale b and the quantile Q(tau) of each layer at some epochs, including the
    last.
    """
    layers = [layer for layer in run.layers if "histogram" in run.diagnostics[-1]["layers"][layer]]
    if not layers:
        return None
    rows = _spread(run.diagnostics, _HISTOGRAM_EPOCHS, lambda row: all("histogram" in row["layers"][x] for x in layers))

    def of_all(key: str) -> list[list[Any]]:
        return [[row["layers"][layer][key] for row in rows] for layer in layers]

    return {
        "layers": layers, "epochs": [row["epoch"] for row in rows], "tau": [row["tau"] for row in rows],
        "range": measures.RANGE, "counts": of_all("histogram"), "scale": of_all("scale"),
        "quantile": of_all("quantile"),
    }  # fmt: skip


def _spread(rows: Sequence[dict], most: int, good: Callable[[dict], bool]) -> list[dict]:
    """Selects at most `most` rows at even distances, including the first and the last.

    It selects only among rows for which `good` is true and which have the same layers as the last of `rows`.
    """
    rows = [row for row in rows if set(row["layers"]) == set(rows[-1]["layers"]) and good(row)]
    if len(rows) <= most:
        return rows
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]


def _figure(name, title, data, legend=False, meaning="", height=260):
    layout = {
        "height": height,
        "margin": {"l": 8, "r": 8, "t": 8, "b": 36},
        "xaxis": {"title": {"text": "epoch", "standoff": 4}, "automargin": True},
        "yaxis": {"automargin": True},
        "showlegend": legend,
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
        "hovermode": "closest",
    }
    return {"id": name, "title": title, "meaning": meaning, "data": data, "layout": layout}


def _short(value):
    """Rounds to five significant digits, so that the file of a run of 600 epochs stays small."""
    return None if value is None else float(f"{value:.5g}")


def _logarithm(percent):
    return None if percent is None else round(math.log10(max(percent, 1e-3)), 3)


def _percent(value):
    return None if value is None else float(f"{100 * value:.4g}")
