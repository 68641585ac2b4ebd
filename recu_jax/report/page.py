"""Makes the HTML of a report: tables of the config and the results, the figures' numbers, and Plotly's script."""

import functools
import html
import importlib.resources
import json
import string
from collections.abc import Iterable, Sequence
from typing import Any

from recu_jax.config.fields import FREE_ON_RESUME
from recu_jax.errors import first_few, require
from recu_jax.report import figures
from recu_jax.report.runs import Run

# Columns of the table of layers: key, heading, whether in percent.
_COLUMNS = (
    ("clipped", "clipped", True), ("clipped_theory", "clipped by theory", True), ("dead", "dead", True),
    ("flipped", "flipped", True), ("in_window", "activations in window", True),
    ("positive_signs", "inputs +1", True), ("constant_channels", "constant channels", True), ("scale", "b", False),
    ("laplace_distance", "distance from Laplace", False), ("quantile", "Q(tau)", False),
    ("quantization_error", "quantization error", False),
    ("quantization_error_theory", "quantization error by theory", False), ("entropy", "entropy", False),
    ("entropy_theory", "entropy by theory", False), ("alpha_min", "least alpha", False),
    ("alpha_mean", "mean alpha", False), ("alpha_max", "largest alpha", False),
)  # fmt: skip


# Fields that the comparison of runs leaves out: they do not change the results, or the table shows them elsewhere.
_NOT_SHOWN = FREE_ON_RESUME | {"num_devices", "epochs"}


class _Markup(str):
    """HTML that a table includes without escaping."""


def render(runs: Sequence[Run]) -> bytes:
    """Makes the page of one run, or of several runs in the same figures.

    Args:
      runs: one or more runs.

    Returns:
      The HTML in UTF-8.

    Raises:
      UserError: Plotly is not installed.
    """
    alone = runs[0] if len(runs) == 1 else None
    drawn = [("Training", figures.curves(runs))]
    drawn.append(("Layers by epoch", figures.heat_maps(alone) if alone else figures.layer_means(runs)))
    histograms = figures.histograms(alone) if alone else None
    sections = [_summary(alone) if alone else _comparison(runs)]
    sections += [_figures(title, some) for title, some in drawn if some]
    if histograms:
        sections.append(string.Template(_text("histogram.html")).substitute(meaning=_escape(figures.HISTOGRAM)))
    if not any(run.diagnostics for run in runs):
        sections.append("<p class=note>There are no diagnostics of layers: the run kept none.</p>")
    if alone:
        sections += [_layers(alone), _provenance(alone)]
    data = {"figures": [f for _, some in drawn for f in some], "histograms": histograms}
    body = string.Template(_text("page.html")).substitute(
        title=_escape(first_few(runs, 3, ", ", lambda run: run.name)),
        css=_text("page.css"),
        sections="\n".join(filter(None, sections)),
        reloads="" if all(run.finished for run in runs) else _text("reloads.html"),
        # "</" would end the script element that holds the data.
        data=json.dumps(data, separators=(",", ":"), allow_nan=False).replace("</", "<\\/"),
    )
    return body.encode(errors="replace") + _script()


@functools.cache
def _script() -> bytes:
    require("plotly", extra="report")
    from plotly.offline import get_plotlyjs

    return f"<script>{get_plotlyjs()}</script>\n<script>{_text('page.js')}</script>\n</body></html>\n".encode()


@functools.cache
def _text(name):
    return (importlib.resources.files(__package__) / name).read_text()


def _escape(text: Any) -> str:
    return html.escape(" ".join(str(text).split()))


def _summary(run):
    row, best = run.rows[-1], run.best
    total = run.config.get("epochs", row["epoch"])
    seconds = sum(d.get("seconds", 0) + d.get("diagnostics_seconds", 0) for d in run.diagnostics)
    cards = [
        ("test top-1", f"{row['test_top1']:.2f}%"),
        ("best", f"{best['test_top1']:.2f}%, epoch {best['epoch']}"),
        ("epochs", f"{row['epoch']} of {total}"),
    ]
    if seconds:
        cards.append(("time", _clock(seconds)))
    if row.get("images_per_second"):
        cards.append(("images a second", f"{row['images_per_second']:.0f}"))
    if row.get("tau") is not None:
        cards.append(("tau", f"{row['tau']:.4f}"))
    items = "".join(f"<div><dt>{_escape(k)}</dt><dd>{_escape(v)}</dd></div>" for k, v in cards)
    return f"<dl class=cards>{items}</dl>"


def _clock(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _comparison(runs):
    known = [run.config for run in runs if run.config]
    fields = sorted({k for config in known for k in config if len({str(c.get(k)) for c in known}) > 1} - _NOT_SHOWN)
    rows = []
    for i, run in enumerate(runs):
        swatch = f'<i style="background:{figures.COLORS[i % len(figures.COLORS)]}"></i>{_escape(run.name)}'
        scores = [f"{row['test_top1']:.2f}" for row in (run.rows[-1], run.best)]
        rows.append([_Markup(swatch), *scores, run.rows[-1]["epoch"], *(_shown(run.config.get(f)) for f in fields)])
    return "<h2>Runs</h2>" + _table(["run", "test top-1 (%)", "best (%)", "epochs", *fields], rows)


def _figures(title, some):
    items = []
    for f in some:
        meaning = f"<p class=note>{_escape(f['meaning'])}</p>" if f["meaning"] else ""
        items.append(
            f'<figure><figcaption>{_escape(f["title"])}{meaning}</figcaption><div id="{f["id"]}"></div></figure>'
        )
    # On a wide page, a group of four figures fills one row. Figures of other groups are larger, three in a row.
    least = 280 if len(some) == 4 else 390
    return f'<h2>{_escape(title)}</h2><div class=figures style="--least: {least}px">{"".join(items)}</div>'


def _layers(run):
    if not run.diagnostics:
        return ""
    last = run.diagnostics[-1]
    columns = [c for c in _COLUMNS if any(v.get(c[0]) is not None for v in last["layers"].values())]
    rows = [
        [layer, *(_number(values.get(k), pct) for k, _, pct in columns)] for layer, values in last["layers"].items()
    ]
    found = last.get("problems")
    problems = (
        [f"<p class=note>{_escape(k)}: {_escape(v)}</p>" for k, v in found.items()] if isinstance(found, dict) else []
    )
    return f"<h2>Layers after epoch {last['epoch']}</h2>{''.join(problems)}" + _table(
        ["layer", *(c[1] for c in columns)], rows
    )


def _number(value, percent):
    if value is None:
        return ""
    return f"{100 * value:.2f}%" if percent else f"{value:.3f}"


def _provenance(run):
    parts = []
    if run.config:
        changed = run.changed_fields()
        same = {k: v for k, v in run.config.items() if k not in changed}
        parts.append("<h2>Config</h2>" + _table(["field", "value"], [(k, _shown(v)) for k, v in changed.items()]))
        rest = _table(["field", "value"], [(k, _shown(v)) for k, v in same.items()])
        parts.append(f"<details><summary>{len(same)} fields as in the base config</summary>{rest}</details>")
    if run.starts:
        rows = [[s.get("time"), s.get("epoch"), _pairs(s["hardware"]), _pairs(s["versions"])] for s in run.starts]
        table = _table(["time", "from epoch", "hardware", "versions"], rows)
        parts.append(f"<h2>Starts</h2><div class=starts>{table}</div>")
    return "".join(parts)


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in values.items())


def _shown(value):
    return "" if value is None else value


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(f"<th>{_escape(h)}</th>" for h in header)
    shown = [[v if isinstance(v, _Markup) else _escape(v) for v in row] for row in rows]
    body = "".join("<tr>" + "".join(f"<td>{v}</td>" for v in row) + "</tr>" for row in shown)
    return f"<div class=table><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
