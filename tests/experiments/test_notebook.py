"""Runs the Colab notebook in a kernel of its own, with 4 virtual CPU devices and a small budget."""

import filecmp
import hashlib
import html
import io
import json
import os
import pathlib
import re
import tarfile

import filelock
import nbclient
import nbformat
import numpy as np
import pytest

from tests.support import ROOT, chromium

NOTEBOOK = ROOT / "experiments" / "colab_tpu.ipynb"
DEVICES = 4


def read_notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def photographs():
    r = np.random.default_rng(0)
    return r.integers(256, size=(48, 32, 32, 3), dtype=np.uint8), r.permutation(48).astype(np.uint8) % 10


def write_archive(path):
    """Writes a small archive in the format of CIFAR-10's binary version."""
    images, labels = photographs()
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    with tarfile.open(path, "w:gz") as archive:
        for i, name in enumerate(names):
            rows = b""
            for image, label in zip(images[8 * i : 8 * i + 8], labels[8 * i : 8 * i + 8], strict=True):
                rows += bytes([label]) + b"".join(image[:, :, colour].tobytes() for colour in range(3))
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            entry.size = len(rows)
            archive.addfile(entry, io.BytesIO(rows))


def with_settings(notebook, **settings):
    """Adds a cell with other values after the cell that is tagged `parameters`."""
    (at,) = (i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    for name in settings:
        assert re.search(rf"^{name} = .*# @param", notebook.cells[at].source, re.MULTILINE), name
    lines = "\n".join(f"{name} = {value!r}" for name, value in settings.items())
    notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(lines))


def execute(folder):
    """Runs the notebook in `folder`, and writes it there with the outputs of its cells."""
    write_archive(folder / "archive.tar.gz")
    notebook = read_notebook()
    with_settings(
        notebook,
        digits_epochs=1,
        cifar10_epochs=2,
        cifar10_model="cifar_resnet8",
        cifar10_batch_size=18,
        cifar10_archive=(folder / "archive.tar.gz").as_uri(),
        cifar10_md5=hashlib.md5((folder / "archive.tar.gz").read_bytes()).hexdigest(),
        save_as="here",
    )
    environment = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": str(ROOT),
        "IPYTHONDIR": str(folder / "ipython"),
    }
    client = nbclient.NotebookClient(
        notebook, timeout=300, startup_timeout=300, resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env=os.environ | environment)
    nbformat.write(notebook, folder / "executed.ipynb")


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Returns the output of each cell by the cell's id, and the folder of the notebook."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has a folder of its own beside the others'
        folder = folder.parent
    folder = folder / "notebook"
    with filelock.FileLock(f"{folder}.lock"):  # once for all workers, because it takes long
        folder.mkdir(exist_ok=True)
        if not (folder / "executed.ipynb").exists():
            execute(folder)
    notebook = nbformat.read(folder / "executed.ipynb", as_version=4)
    return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}, folder


def text(outputs):
    return "".join(output.text for output in outputs if output.output_type == "stream")


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_nothing_is_stored_and_every_cell_is_introduced():
    notebook = read_notebook()
    nbformat.validate(notebook)
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds == ["markdown", *["markdown", "code"] * (len(kinds) // 2)]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.slow
def test_all_devices_are_found(executed):
    outputs, _ = executed
    assert text(outputs["devices"]).startswith(f"{DEVICES} cpu device(s), jax ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "run", "epochs", "batch_size"),
    [("digits", "digits_1_epochs", 1, 32), ("cifar10", "cifar_resnet8_2_epochs", 2, 16)],
)
def test_it_trains_on_all_devices(executed, cell, run, epochs, batch_size):
    outputs, folder = executed
    metrics = rows(folder / "runs" / run)
    assert [row["epoch"] for row in metrics] == list(range(1, epochs + 1))
    best = max(row["test_top1"] for row in metrics)
    last_line = f"runs/{run}: test top-1 {metrics[-1]['test_top1']:.2f}%, best {best:.2f}%"
    assert text(outputs[cell]).splitlines()[-1] == last_line
    config = json.loads((folder / "runs" / run / "run.json").read_text())["config"]
    # A batch of 18 does not divide over 4 devices, so the notebook rounds it down to 16.
    assert (config["num_devices"], config["batch_size"]) == (DEVICES, batch_size)


@pytest.mark.slow
def test_it_learns_the_digits(executed):
    _, folder = executed
    assert rows(folder / "runs" / "digits_1_epochs")[-1]["test_top1"] > 30


@pytest.mark.slow
def test_the_archive_becomes_arrays(executed):
    _, folder = executed
    with np.load(folder / "cifar10.npz") as arrays:
        assert len(arrays) == 4
        for part, whole in zip(("images", "labels"), photographs(), strict=True):
            np.testing.assert_array_equal(arrays[f"train_{part}"], whole[:40])
            np.testing.assert_array_equal(arrays[f"test_{part}"], whole[40:])


def shown_report(executed):
    outputs, folder = executed
    (output,) = outputs["report"]
    return output.data["text/html"], (folder / "runs" / "cifar_resnet8_2_epochs" / "report.html").read_text()


@pytest.mark.slow
def test_the_report_is_shown(executed):
    shown, page = shown_report(executed)
    assert html.unescape(re.search(r'srcdoc="([^"]*)"', shown)[1]) == page and "layer1_0" in page


@pytest.mark.slow
def test_a_layer_trains_in_another_model(executed):
    outputs, _ = executed
    first, *layers = text(outputs["layer"]).splitlines()
    before, after, accuracy = map(float, re.fullmatch(r"loss (.+) -> (.+), accuracy (.+)", first).groups())
    assert after < before / 2 and accuracy > 0.8
    assert len(layers) == 2 and all("BinaryConv" in layer for layer in layers)


@pytest.mark.slow
def test_the_runs_are_saved(executed):
    outputs, folder = executed
    said, *saved = text(outputs["save"]).splitlines()
    assert said == "This is not Colab, so there is no Google Drive: the runs are copied into a local folder."
    assert saved == ["saved/here/digits_1_epochs", "saved/here/cifar_resnet8_2_epochs"]
    for copy in map(pathlib.Path, saved):
        files = [file.relative_to(folder / copy) for file in (folder / copy).rglob("*") if file.is_file()]
        assert pathlib.Path("report.html") in files and any(file.parts[0] == "checkpoints" for file in files)
        same = filecmp.cmpfiles(folder / copy, folder / "runs" / copy.name, files, shallow=False)
        assert same == (files, [], [])


# Chooses the report's second layer, as a reader does, and writes into the page what the report then shows.
TURNS = """<pre id=found></pre><script>onload = () => {
  const page = document.querySelector("iframe").contentDocument, layer = page.getElementById("layer");
  layer.selectedIndex = 1;
  layer.dispatchEvent(new Event("change"));
  const figures = [...page.querySelectorAll(".js-plotly-plot")].map((figure) => figure.id);
  const bars = page.getElementById("weights").data[0];
  document.getElementById("found").textContent = JSON.stringify([figures, bars.x]);
}</script>"""


@chromium.needed
@pytest.mark.slow
def test_the_report_works_within_the_notebook(executed, tmp_path):
    shown, report = shown_report(executed)
    (tmp_path / "page.html").write_text(f"<!doctype html><body>{shown}{TURNS}</body>")
    document = chromium.opened(tmp_path / "page.html", tmp_path / "profile")
    figures, bars = json.loads(html.unescape(re.search(r'id="?found"?>([^<]*)<', document)[1]))
    assert set(figures) == {"loss", "top1", "learning_rate", "tau", "flipped", "clipped", "dead", "weights"}
    histograms = json.loads(re.search(r'id="data">(.*?)</script>', report, re.DOTALL)[1])["histograms"]
    first, second = (histograms["scale"][layer][-1] for layer in range(2))
    assert bars[0] == pytest.approx(-histograms["range"] * second * (1 - 1 / len(bars))) and first != second
