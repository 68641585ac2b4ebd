"""Tests the report: parses the page, and opens it in Chromium if that is installed."""

import dataclasses
import html.parser
import importlib.util
import json
import re

import numpy as np
import pytest

from recu_jax.records import read_epochs
from recu_jax.report import figures, live, page
from recu_jax.report.runs import names, read_run
from tests.support import chromium
from tests.support.written_runs import LAYERS, RECORDED, write_run


class Page(html.parser.HTMLParser):
    """Parses a page: its ids, addresses outside the page, text, and JSON."""

    def __init__(self, content):
        super().__init__()
        self.ids, self.outside, self.text, self.open, self.inside = set(), [], "", [], None
        self.feed(content)
        self.close()
        self.data = json.loads(re.search(r'id="data">(.*?)</script>', content, re.DOTALL)[1])

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.inside = tag
        self.ids.add(attributes.get("id"))
        self.outside += [attributes[k] for k in ("src", "href") if not attributes.get(k, "data:").startswith("data:")]
        if tag not in ("meta", "link", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["script"], ["style"]):
            self.text += " " + data


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "one <b>&", model="cifar_resnet18")


def page_of(*workdirs):
    runs = [read_run(w, n) for w, n in zip(workdirs, names(workdirs), strict=True)]
    parsed = Page(page.render(runs).decode())
    assert parsed.open == [] and parsed.outside == []
    for figure in parsed.data["figures"]:
        assert figure["id"] in parsed.ids and figure["title"] in parsed.text
        pytest.importorskip("plotly.graph_objects").Figure(figure["data"], figure["layout"])  # raises if it is wrong
    return parsed, {figure["id"]: figure["data"] for figure in parsed.data["figures"]}


def test_a_run_with_its_layers(workdir):
    parsed, drawn = page_of(workdir)
    rows, measured = (read_epochs(workdir / f"{name}.jsonl") for name in ("metrics", "diagnostics"))
    assert {line["name"]: line["y"] for line in drawn["loss"]} == {
        "test": [1.5] * 3, "train": [2.0, 1.0, pytest.approx(2 / 3, abs=1e-4)],
    }  # fmt: skip
    assert drawn["top1"][0]["x"] == [1, 2, 3] and drawn["tau"][0]["y"] == pytest.approx([row["tau"] for row in rows])
    for key in ("flipped", "clipped", "dead"):
        (heat,) = drawn[key]
        expected = [[100 * row["layers"][layer][key] for row in measured] for layer in LAYERS]
        np.testing.assert_allclose(heat["customdata"], expected, rtol=1e-3)
        shown = np.log10(np.maximum(expected, 1e-3)) if key == "flipped" else expected
        np.testing.assert_allclose(heat["z"], shown, rtol=1e-3, atol=1e-3)
        assert heat["y"] == list(LAYERS) and heat["zmin"] < heat["zmax"]
    histograms = parsed.data["histograms"]
    assert histograms["counts"][1][2] == measured[2]["layers"][LAYERS[1]]["histogram"]
    assert histograms["quantile"][0] == [row["layers"][LAYERS[0]]["quantile"] for row in measured]
    for words in (
        "one <b>&",
        "63.00%",
        "3 of 3",
        "0 min 6 s",
        "cifar_resnet18",
        "fields as in the base config",
        "jaxlib",
    ):
        assert words in parsed.text
    assert "reload" not in parsed.ids and {"layer", "epoch", "weights"} <= parsed.ids


def test_an_unfinished_run_reloads(tmp_path):
    parsed, _ = page_of(write_run(tmp_path / "run", epochs=2))
    assert "reload" in parsed.ids and "2 of 3" in parsed.text


def test_the_recorded_run_has_no_layers_to_show():
    parsed, drawn = page_of(RECORDED)
    assert set(drawn) == {"loss", "top1", "learning_rate", "tau"} and parsed.data["histograms"] is None
    assert "61.74%" in parsed.text and "There are no diagnostics of layers" in parsed.text


def test_several_runs_over_each_other(workdir, tmp_path):
    other = write_run(tmp_path / "two", learning_rate=0.3)
    parsed, drawn = page_of(workdir, other, RECORDED)
    assert len(drawn["loss"]) == 6 and len({line["line"]["color"] for line in drawn["loss"]}) == 3
    rows = read_epochs(other / "diagnostics.jsonl")
    expected = [100 * np.mean([layer["flipped"] for layer in row["layers"].values()]) for row in rows]
    np.testing.assert_allclose(drawn["flipped_means"][1]["y"], expected, rtol=1e-4)
    for words in ("learning_rate", "0.3", "cifar_resnet18", "cifar10_resnet20_10_epochs"):
        assert words in parsed.text


def test_histograms_of_many_epochs_are_few(workdir):
    run = read_run(workdir)
    many = dataclasses.replace(run, diagnostics=[{**run.diagnostics[0], "epoch": e} for e in range(1, 601)])
    epochs = figures.histograms(many)["epochs"]
    assert (epochs[0], epochs[-1], len(epochs)) == (1, 600, 12)


def test_names_that_tell_apart():
    assert names(["/a/x", "/a/y"]) == ["x", "y"]
    assert names(["/a/x", "/b/x"]) == ["a/x", "b/x"]


def test_it_is_rewritten_as_often_as_it_costs_little(tmp_path, monkeypatch):
    run = read_run(write_run(tmp_path / "run"))
    report = live.LiveReport(tmp_path / "run")
    path = tmp_path / "run" / live.FILE
    report.update(run.rows[:1], run.diagnostics[:1])
    assert "1 of 3" in Page(path.read_text()).text
    monkeypatch.setattr(report, "_took", 3600.0)
    report.update(run.rows[:2], run.diagnostics[:2])
    assert "1 of 3" in Page(path.read_text()).text
    monkeypatch.setattr(report, "_took", 0.0)
    report.update(run.rows[:2], run.diagnostics[:2])
    assert "2 of 3" in Page(path.read_text()).text
    monkeypatch.setattr(report, "_took", 3600.0)
    report.finish(run.rows, run.diagnostics)
    assert "3 of 3" in Page(path.read_text()).text


def test_without_plotly_a_line_says_so(tmp_path, monkeypatch):
    run = read_run(write_run(tmp_path / "run"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    page._script.cache_clear()
    report = live.LiveReport(tmp_path / "run")
    for _ in range(2):
        report.update(run.rows, run.diagnostics)
    report.finish(run.rows, run.diagnostics)
    assert report.where() == (
        "no report.html: plotly is not installed; type: pip install 'recu_jax[report]'; once this is mended, the same "
        "command writes it"
    )
    assert not (tmp_path / "run" / live.FILE).exists()


def test_a_disk_that_does_not_take_it_ends_no_run(tmp_path):
    run = read_run(write_run(tmp_path / "run"))
    report = live.LiveReport(tmp_path / "run")
    assert report.where() == f"report: {tmp_path / 'run' / 'report.html'}"
    (tmp_path / "run").rename(tmp_path / "gone")
    for _ in range(2):
        report.finish(run.rows, run.diagnostics)
    assert report.where().startswith("no report.html: No such file or directory; ")


@pytest.mark.slow
@chromium.needed
def test_it_opens_in_chromium_without_errors(workdir, tmp_path):
    file = tmp_path / "report.html"
    file.write_bytes(page.render([read_run(workdir)]))
    document = chromium.opened(file, tmp_path / "profile")
    body = document.partition("<body>")[2]
    # Plotly has drawn each figure, and the histogram has bars.
    for figure in ("loss", "top1", "learning_rate", "tau", "flipped", "clipped", "dead", "weights"):
        assert re.search(rf'<div id="?{figure}"? class="js-plotly-plot', body), figure
    assert "barlayer" in body and f'<option value="{LAYERS[1]}">' in body


@pytest.mark.parametrize("count", [1, 2])
def test_every_figure_says_what_is_good_and_bad(count, workdir, tmp_path):
    others = [write_run(tmp_path / f"run{i}") for i in range(1, count)]
    content = page.render([read_run(w) for w in (workdir, *others)]).decode()
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", content)
    assert len(captions) >= 7 and [c for c in captions if "Good:" not in c or "Bad:" not in c] == []
    assert "would need more than 100 epochs to reach 0" in content


def test_columns_have_names_of_their_own(workdir):
    content = page.render([read_run(workdir)]).decode()
    headings = re.findall(r"<th>(.*?)</th>", content.partition("Layers after epoch")[2].partition("</thead>")[0])
    assert len(headings) > 10 and len(set(headings)) == len(headings)
    assert {"quantization error by theory", "entropy by theory"} <= set(headings)
