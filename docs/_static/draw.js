// The page draw.md: strokes become the picture that scikit-learn's digits are, and WebAssembly computes its scores.
// Nothing leaves the browser.
"use strict";

const Draw = (() => {
  const CELLS = 32; // the bitmap's side; blocks of 4 x 4 cells are the pixels of the picture
  const BLOCK = 4;
  const SIDE = CELLS / BLOCK;
  const PEN = 5; // thickness of a stroke in the bitmap, in cells: then about as much is ink as in the data set, 30%
  const VIEW = 256; // the side of the drawing, in units of its SVG

  function distance(x, y, [ax, ay], [bx, by]) {
    const length = (bx - ax) ** 2 + (by - ay) ** 2;
    const along = length ? Math.max(0, Math.min(1, ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length)) : 0;
    return Math.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay));
  }

  // The bitmap of strokes, lists of [x, y], in any unit: scaled so that the longer side fills it, and centred.
  function bitmapOf(strokes) {
    const bitmap = new Uint8Array(CELLS * CELLS);
    const points = strokes.flat();
    if (points.length === 0) return bitmap;
    const [xs, ys] = [0, 1].map((axis) => points.map((point) => point[axis]));
    const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    // A dot stays a dot.
    const scale = (CELLS - PEN) / Math.max(right - left, bottom - top, VIEW / 8);
    const place = ([x, y]) => [(x - (left + right) / 2) * scale, (y - (top + bottom) / 2) * scale];
    for (const stroke of strokes) {
      const placed = stroke.map(place);
      for (let i = 0; i < placed.length; i++) {
        const [from, to] = [placed[Math.max(0, i - 1)], placed[i]];
        for (let cell = 0; cell < bitmap.length; cell++) {
          const x = (cell % CELLS) + 0.5 - CELLS / 2;
          const y = Math.floor(cell / CELLS) + 0.5 - CELLS / 2;
          if (distance(x, y, from, to) <= PEN / 2) bitmap[cell] = 1;
        }
      }
    }
    return bitmap;
  }

  // The picture of a bitmap: how many cells of each block are ink, 0 to 16.
  function countsOf(bitmap) {
    const counts = new Array(SIDE * SIDE).fill(0);
    bitmap.forEach((ink, cell) => {
      const row = Math.floor(cell / CELLS / BLOCK);
      const column = Math.floor((cell % CELLS) / BLOCK);
      counts[row * SIDE + column] += ink;
    });
    return counts;
  }

  // Gives a function from counts to the ten scores.
  async function network(base64) {
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    const { instance } = await WebAssembly.instantiate(bytes);
    const { memory, pixels, scores, predict, _initialize } = instance.exports;
    if (_initialize) _initialize();
    return (counts) => {
      new Uint8Array(memory.buffer, pixels(), counts.length).set(counts.map((count) => Math.round((count * 255) / 16)));
      if (predict() !== 0) throw new Error("the network returned an error");
      return Array.from(new Float32Array(memory.buffer, scores(), 10));
    };
  }

  function probabilities(scores) {
    const powers = scores.map((score) => Math.exp(score - Math.max(...scores)));
    const sum = powers.reduce((a, b) => a + b);
    return powers.map((power) => power / sum);
  }

  // Makes the page of the elements in `root`. Resolves when it takes strokes.
  async function page(root) {
    const find = (name) => root.querySelector(`[data-draw=${name}]`);
    const svg = (name, attributes, parent) => {
      const element = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
      return parent.appendChild(element);
    };
    const [paper, seen, result] = ["paper", "seen", "result"].map(find);
    const cells = Array.from({ length: SIDE * SIDE }, (_, i) =>
      svg("rect", { x: i % SIDE, y: Math.floor(i / SIDE), width: 1, height: 1, "fill-opacity": 0 }, seen),
    );
    const rows = Array.from({ length: 10 }, (_, digit) => {
      const row = find("scores").insertRow();
      row.insertCell().textContent = digit;
      const bar = row.insertCell().appendChild(document.createElement("span"));
      return { row, bar, number: row.insertCell() };
    });
    const scoresOf = await network(DIGITS_WASM);

    function clear() {
      strokes.length = 0;
      paper.replaceChildren();
      for (const cell of cells) cell.setAttribute("fill-opacity", 0);
      for (const { row, bar, number } of rows) {
        row.className = number.textContent = "";
        bar.style.width = 0;
      }
      result.textContent = "Draw a digit.";
    }

    function show(bitmap) {
      const counts = countsOf(bitmap);
      counts.forEach((count, i) => cells[i].setAttribute("fill-opacity", count / 16));
      const scores = scoresOf(counts);
      const shares = probabilities(scores);
      const best = scores.indexOf(Math.max(...scores));
      rows.forEach(({ row, bar, number }, digit) => {
        row.className = digit === best ? "best" : "";
        bar.style.width = `${100 * shares[digit]}%`;
        number.textContent = scores[digit].toFixed(1).replace("-", "\u2212");
      });
      result.textContent = `This is a ${best} (${Math.round(100 * shares[best])}%).`;
      return scores;
    }

    const strokes = [];
    let line = null;
    const pointOf = (event) => {
      const box = paper.getBoundingClientRect();
      return [((event.clientX - box.left) * VIEW) / box.width, ((event.clientY - box.top) * VIEW) / box.height];
    };
    const extend = (event) => {
      strokes.at(-1).push(pointOf(event));
      line.setAttribute("points", strokes.at(-1).join(" "));
    };
    paper.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || line !== null) return;
      if (event.isTrusted) paper.setPointerCapture(event.pointerId);
      line = svg("polyline", {}, paper);
      strokes.push([pointOf(event)]);
      extend(event); // a line of one point is not painted
    });
    paper.addEventListener("pointermove", (event) => {
      if (line === null) return;
      for (const each of event.getCoalescedEvents?.() ?? []) extend(each);
      extend(event);
      show(bitmapOf(strokes));
    });
    for (const end of ["pointerup", "pointercancel"]) {
      paper.addEventListener(end, () => {
        if (line !== null) show(bitmapOf(strokes));
        line = null;
      });
    }
    find("clear").addEventListener("click", clear);
    clear();
    return { show, clear };
  }

  return { bitmapOf, countsOf, network, page };
})();

if (typeof document !== "undefined") {
  const root = document.getElementById("draw");
  Draw.ready = Draw.page(root).catch((error) => {
    root.querySelector("[data-draw=result]").textContent = `This browser does not run the network: ${error.message}`;
    throw error;
  });
}
