"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const touch = matchMedia("(pointer: coarse)");
const kept = new URLSearchParams(location.hash.slice(1));
const element = (id) => document.getElementById(id);
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function keep(key, value) {
  kept.set(key, value);
  // A report that is shown inside another page, such as a notebook, has no address that could be changed.
  if (location.protocol !== "about:") history.replaceState(null, "", "#" + kept);
}

function themed(layout) {
  const axis = { gridcolor: color("--line"), zerolinecolor: color("--line"), linecolor: color("--line") };
  return {
    ...layout,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: color("--text"), size: 12, family: "system-ui, sans-serif" },
    // On a touch screen, a finger must scroll the page. With "zoom" it would zoom the figure.
    dragmode: touch.matches ? false : "zoom",
    xaxis: { ...layout.xaxis, ...axis },
    yaxis: { ...layout.yaxis, ...axis },
  };
}

function draw(id, traces, layout) {
  Plotly.react(id, traces, themed(layout), { displayModeBar: false, responsive: true });
}

function drawHistogram() {
  const all = data.histograms;
  if (!all) return;
  const layer = element("layer").selectedIndex;
  const epoch = Number(element("epoch").value);
  const counts = all.counts[layer][epoch];
  const b = all.scale[layer][epoch];
  const q = all.quantile[layer][epoch];
  const width = (2 * all.range * b) / counts.length;
  const n = counts.reduce((sum, count) => sum + count, 0);
  const centers = counts.map((_, i) => -all.range * b + (i + 0.5) * width);
  const density = counts.map((count) => count / (n * width));
  const curve = Array.from({ length: 401 }, (_, i) => -all.range * b + (i * 2 * all.range * b) / 400);
  const laplace = curve.map((w) => Math.exp(-Math.abs(w) / b) / (2 * b));
  const bars = { type: "bar", name: "weights", x: centers, y: density, width, marker: { color: "#3b82f6" } };
  const line = { type: "scatter", mode: "lines", name: "Laplace", x: curve, y: laplace, line: { color: "#f97316" } };
  const shown = Math.min(all.range * b, Math.max(5 * b, 1.1 * (q ?? 0)));
  const bounds = q === null ? [] : [-q, q];
  const text = `b ${b.toPrecision(4)}` + (q === null ? "" : `, Q ${q.toPrecision(4)}`);
  element("epoch_shown").textContent = `${all.epochs[epoch]} (tau ${all.tau[epoch].toPrecision(4)}, ${text})`;
  draw("weights", [bars, line], {
    height: 340,
    margin: { l: 8, r: 8, t: 8, b: 36 },
    bargap: 0,
    xaxis: { title: { text: "standardized weight", standoff: 4 }, automargin: true, range: [-shown, shown] },
    yaxis: { title: { text: "density" }, automargin: true },
    legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom" },
    shapes: bounds.map((x) => ({
      type: "line", x0: x, x1: x, yref: "paper", y0: 0, y1: 1, line: { color: color("--text"), dash: "dash", width: 1 },
    })),
  });
}

function drawAll() {
  for (const figure of data.figures) draw(figure.id, figure.data, figure.layout);
  drawHistogram();
}

function prepareHistogram() {
  const all = data.histograms;
  if (!all) return;
  const select = element("layer");
  const slider = element("epoch");
  for (const name of all.layers) select.add(new Option(name, name));
  select.selectedIndex = Math.max(0, all.layers.indexOf(kept.get("layer")));
  slider.max = all.epochs.length - 1;
  const wanted = all.epochs.indexOf(Number(kept.get("epoch")));
  slider.value = wanted < 0 ? all.epochs.length - 1 : wanted;
  select.addEventListener("change", () => { keep("layer", select.value); drawHistogram(); });
  slider.addEventListener("input", () => { keep("epoch", all.epochs[slider.value]); drawHistogram(); });
}

function prepareReload() {
  const box = element("reload");
  if (!box) return;
  box.checked = kept.get("reload") !== "no";
  box.addEventListener("change", () => keep("reload", box.checked ? "yes" : "no"));
  setInterval(() => { if (box.checked && !document.hidden) location.reload(); }, 30000);
}

prepareHistogram();
prepareReload();
drawAll();
dark.addEventListener("change", drawAll);
