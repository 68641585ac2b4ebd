"""Tests the page on which one draws a digit: its WebAssembly and JavaScript in node, and the page in Chromium."""

import importlib.util
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from recu_jax import deploy
from recu_jax.data import digits
from tests.support import ROOT, chromium

_spec = importlib.util.spec_from_file_location("page", ROOT / "experiments" / "devices" / "page.py")
page = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(page)
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="no node; apt-get install nodejs")
# Digits as people draw them. Each is a list of strokes, and a stroke is a list of points in a square of 256x256. The
# seven has a bar, as in the data set.
DRAWN = {
    0: [[(128, 40), (90, 60), (78, 128), (90, 196), (128, 216), (166, 196), (178, 128), (166, 60), (128, 40)]],
    1: [[(100, 80), (135, 40), (135, 216)]],
    2: [[(84, 80), (100, 48), (140, 42), (170, 66), (164, 104), (120, 156), (80, 212), (180, 212)]],
    3: [[(84, 56), (130, 40), (168, 66), (156, 104), (118, 122), (160, 140), (172, 180), (136, 214), (82, 200)]],
    4: [[(130, 40), (76, 140), (186, 140)], [(150, 96), (150, 216)]],
    5: [[(172, 42), (96, 42), (88, 116), (136, 106), (170, 136), (168, 184), (132, 214), (84, 204)]],
    6: [[(150, 40), (104, 80), (84, 150), (94, 200), (130, 216), (166, 194), (168, 158), (134, 138), (92, 160)]],
    7: [[(80, 44), (178, 44), (140, 120), (116, 216)], [(96, 130), (176, 130)]],
    8: [[(128, 122), (92, 96), (96, 56), (128, 40), (162, 56), (164, 96), (128, 122), (88, 156), (92, 200), (128, 216),
         (166, 200), (170, 156), (128, 122)]],
    9: [[(166, 88), (132, 118), (94, 100), (94, 60), (130, 40), (164, 60), (166, 100), (154, 170), (128, 216)]],
}  # fmt: skip


@pytest.fixture(scope="module")
def counts():
    """Returns the ink of each pixel of all test images, integers from 0 to 16, (360, 64)."""
    images = digits.load().test_images
    return np.round(images.reshape(len(images), 64) * (16 / 255)).astype(int)


@pytest.fixture(scope="module")
def want():
    """Returns the logits that the library predicts for all test images."""
    return np.asarray(deploy.load(page.NETWORK).predict(digits.load().test_images))


def in_node(folder, script):
    """Runs the page's JavaScript and then `script`. Returns the JSON value that `script` prints."""
    parts = [page.SCRIPT.read_text(), (page.STATIC / "draw.js").read_text(), script]
    (folder / "script.js").write_text("\n".join(parts))
    done = subprocess.run(["node", folder / "script.js"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_kept_program_is_of_its_sources():
    stale = "docs/_static/digits_wasm.js is older than its sources; run experiments/devices/page.py"
    assert page.digest(page.sources()).encode() in page.kept(), stale


@needs_node
def test_the_scores_of_all_test_images(counts, want, tmp_path):
    script = f"Draw.network(DIGITS_WASM).then((f) => console.log(JSON.stringify({counts.tolist()}.map(f))))"
    found = np.asarray(in_node(tmp_path, script))
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-5 * abs(want).max())
    assert (found.argmax(-1) == want.argmax(-1)).all() and len(found) == 360


@needs_node
def test_a_pixel_counts_the_ink_of_its_cells(tmp_path):
    bitmap = np.random.default_rng(0).integers(0, 2, (32, 32))
    found = in_node(tmp_path, f"console.log(JSON.stringify(Draw.countsOf({bitmap.ravel().tolist()})))")
    np.testing.assert_array_equal(found, bitmap.reshape(8, 4, 8, 4).sum((1, 3)).ravel())


@needs_node
def test_a_drawing_is_scaled_and_centred(tmp_path):
    seven = np.asarray(DRAWN[7][0])
    moved = [[stroke.tolist()] for stroke in (seven, seven // 2 + [100, 20])]
    script = f"console.log(JSON.stringify({moved}.map((strokes) => Array.from(Draw.bitmapOf(strokes)))))"
    large, small = np.asarray(in_node(tmp_path, script)).reshape(2, 32, 32)
    np.testing.assert_array_equal(large, small)
    ys, xs = np.nonzero(large)
    assert ys.min() == 0 and ys.max() == 31 and abs(xs.min() - (31 - xs.max())) <= 1


DRIVE = """
<script>
const paper = document.querySelector("[data-draw=paper]");
const send = (type, [x, y]) => {
  const box = paper.getBoundingClientRect();
  const at = { clientX: box.left + (x * box.width) / 256, clientY: box.top + (y * box.height) / 256 };
  paper.dispatchEvent(new PointerEvent(type, { ...at, button: 0, bubbles: true }));
};
const text = (name) => document.querySelector(`[data-draw=${name}]`).innerText;
const numbers = () => Array.from(document.querySelectorAll("[data-draw=scores] tr"), (row) => row.cells[2].innerText);
Draw.ready.then(({ show }) => {
  const found = { empty: text("result"), drawn: [], images: [] };
  for (const strokes of DRAWN) {
    document.querySelector("[data-draw=clear]").click();
    for (const [first, ...rest] of strokes) {
      send("pointerdown", first);
      for (const point of rest) send("pointermove", point);
      send("pointerup", rest.at(-1));
    }
    found.drawn.push(text("result"));
  }
  for (const counts of COUNTS) {
    // The first cells of each block are ink, as many as the pixel counts.
    show(Uint8Array.from({ length: 1024 }, (_, i) => {
      const [row, column] = [i >> 5, i & 31];
      return (row & 3) * 4 + (column & 3) < counts[(row >> 2) * 8 + (column >> 2)] ? 1 : 0;
    }));
    found.images.push([text("result"), numbers()]);
  }
  const shown = document.body.appendChild(document.createElement("pre"));
  Object.assign(shown, { id: "found", textContent: JSON.stringify(found) });
});
</script>
"""


@chromium.needed
@pytest.mark.slow
def test_drawing_in_a_browser(counts, want, tmp_path):
    (fragment,) = re.findall(r"```\{raw\} html\n(.*?)```", (ROOT / "docs" / "draw.md").read_text(), re.DOTALL)
    (tmp_path / "_static").symlink_to(page.STATIC)
    drive = DRIVE.replace("DRAWN", json.dumps([DRAWN[i] for i in range(10)])).replace("COUNTS", str(counts.tolist()))
    (tmp_path / "draw.html").write_text(f'<!doctype html><meta charset="utf-8">{fragment}{drive}')
    document = chromium.opened(tmp_path / "draw.html", tmp_path / "profile")
    found = json.loads(re.search('id="found">(.*?)</pre>', document)[1])
    assert found["empty"] == "Draw a digit."
    assert [line[:11] for line in found["drawn"]] == [f"This is a {digit}" for digit in range(10)]
    for (result, numbers), logits in zip(found["images"], want, strict=True):
        assert result.startswith(f"This is a {logits.argmax()} ")
        shown = [float(number.replace("\N{MINUS SIGN}", "-")) for number in numbers]
        np.testing.assert_allclose(shown, logits, atol=0.0501)
