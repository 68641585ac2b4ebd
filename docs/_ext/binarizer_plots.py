"""Defines the directive `{binarizer-plot} weights.recu`, which plots a binarizer's forward function and gradient.

Both are computed by calls of the binarizer. The gradient's plot shows the diagonal of the Jacobian: the slope of each
output with respect to its own input, by `jax.grad`. The inputs are 1,000 quantiles of a Laplace distribution for
weights, and of a normal distribution for activations. Together they are one channel of weights or one sample of
activations, because some binarizers use statistics of the whole channel or sample.
"""

import functools
import pathlib
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

_COUNT = 1000
_COLORS = ("#3b82f6", "#f97316", "#10b981")
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
# Color of text and lines, and color of the page.
_SCHEMES = {"light": ("#374151", "#ffffff"), "dark": ("#d1d5db", "#131416")}
_INPUTS = {"weights": "w, the latent weight", "activations": "x, the activation"}
_FOLDER = "_generated"

# For each curve of a plot: its label, and the binarizer's arguments that differ between the curves.
_PROGRESS = [(f"progress {p}", {"progress": p}) for p in (0.0, 0.5, 1.0)]
_TAU = [(f"tau {tau}", {"tau": tau}) for tau in (0.85, 0.95)] + [("tau 1: no clamp", {"tau": 1.0})]
_SHIFT = [(f"shift {shift}", {"shift": shift}) for shift in (0.0, 0.5)]
_SPREAD = [(f"spread {a}, shift {b}", {"spread": a, "shift": b}) for a, b in ((1, 0), (0.7, 0.3))]


def curves(name: str) -> list[tuple[str, Any, Any, Any]]:
    """Returns label, inputs, outputs and slopes of each curve of `weights.NAME` or `activations.NAME`."""
    import jax
    import jax.numpy as jnp

    from recu_jax import binarizers

    kind, _, key = name.partition(".")
    shares = (jnp.arange(_COUNT) + 0.5) / _COUNT
    if kind == "weights":
        binarizer = binarizers.weight_binarizer(key)
        # Quantiles of the Laplace distribution with standard deviation 1.
        x = jnp.where(shares < 0.5, jnp.log(2 * shares), -jnp.log(2 - 2 * shares)) / jnp.sqrt(2.0)
        variants = _TAU if key == "recu" else _PROGRESS if binarizer.annealed else [("", {})]

        def call(x, tau=None, progress=None):
            signs, scale = binarizer(x[:, None], tau, progress)
            y = signs if scale is None else signs * scale
            return (y + binarizer.offset(x[:, None]) if binarizer.shifted else y)[:, 0]

    else:
        binarizer = binarizers.activation_binarizer(key)
        x = jax.scipy.stats.norm.ppf(shares)
        learned = _SPREAD if binarizer.scaled else _SHIFT if binarizer.parameters else [("", {})]
        variants = _PROGRESS if binarizer.annealed else learned

        def call(x, progress=None, **parameters):
            parameters = {name: jnp.full(1, value) for name, value in parameters.items()}
            y = binarizer(x.reshape(1, -1, 1), sample_ndim=2, train=True, progress=progress, **parameters)
            scale, offset = binarizer.values(**parameters) if binarizer.scaled else (1, 0)
            return scale * y.ravel() + offset

    found = []
    for label, arguments in variants:
        of = functools.partial(call, **arguments)
        slopes = jax.vmap(jax.grad(lambda x, i, of=of: of(x)[i]), (None, 0))(x, jnp.arange(_COUNT))
        found.append((label, x, of(x), jnp.diagonal(slopes)))
    return found


def draw(name: str, scheme: str, folder: pathlib.Path) -> list[tuple[str, pathlib.Path]]:
    """Writes two plots of a binarizer as SVG: forward and gradient. Returns ("forward" or "gradient", file) for each.

    `scheme` is "light" or "dark", for the colors of the page.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ink, ground = _SCHEMES[scheme]
    style = {
        "font.size": 10, "text.color": ink, "axes.labelcolor": ink, "axes.edgecolor": ink, "xtick.color": ink,
        "ytick.color": ink, "axes.titlecolor": ink, "axes.spines.top": False, "axes.spines.right": False,
        "svg.hashsalt": name,
    }  # fmt: skip
    found, files = curves(name), []
    for what in ("forward", "gradient"):
        with plt.rc_context(style):
            figure, axes = plt.subplots(figsize=(4, 2.6), layout="constrained")
            for i, (label, x, y, slope) in enumerate(found):
                drawn = y if what == "forward" else slope
                axes.plot(x, drawn, color=_COLORS[i], linestyle=_DASHES[i], linewidth=1.8, label=label)
            least, most = (-1.25, 1.25) if what == "forward" else _limits([slope for *_, slope in found])
            axes.set(title=what, xlabel=_INPUTS[name.partition(".")[0]], xlim=(-2.5, 2.5), ylim=(least, most))
            axes.grid(color=ink, alpha=0.18, linewidth=0.6)
            if what == "gradient" and len(found) > 1:
                axes.legend(fontsize=8, labelcolor=ink, facecolor=ground, edgecolor="none", framealpha=0.85)
            file = folder / f"{name}.{what}.{scheme}.svg"
            figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
            plt.close(figure)
            files.append((what, file))
    return files


def _limits(slopes):
    """Returns limits of the y axis that leave a margin around 0 and all slopes."""
    least, most = min(float(s.min()) for s in slopes), max(float(s.max()) for s in slopes)
    return min(least, -0.05 * most) - 0.05 * (most - least), most * 1.12


class _BinarizerPlot(SphinxDirective):
    required_arguments = 1

    def run(self):
        name = self.arguments[0]
        folder = pathlib.Path(self.env.srcdir) / _FOLDER
        folder.mkdir(exist_ok=True)
        images = nodes.container(classes=["binarizer-plots"])
        for scheme in _SCHEMES:
            for what, file in draw(name, scheme, folder):
                image = nodes.image(uri=f"/{_FOLDER}/{file.name}", alt=f"{what.capitalize()} of {name}")
                image["classes"] += [f"only-{scheme}"]
                images += image
        return [images]


def setup(app):
    """Registers the directive."""
    app.add_directive("binarizer-plot", _BinarizerPlot)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
