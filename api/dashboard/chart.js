// Charts: stacked bars over time. uPlot draws them (uplot.js, version 1.6.32, unchanged; https://github.com/leeoniya/uPlot).
import { el, number } from "./dom.js";

const height = 156; // px, with the labels of the time axis

const charts = new Map(); // the chart of each figure element that is in the page

// stackedBars draws samples as stacked bars in a figure element. A sample has the time "at" of its end, a title, and a
// value for each kind; it may have the time of its beginning, begin. The fields of view are: kinds, the kinds from the
// bottom up, which are keys of colours; step, the length of a sample in ms; from and to, the limits of the time axis in
// ms; labels, the labels of this axis, each [time, text]; marks, vertical lines, each with a time "at" and a title;
// most, the upper limit of the value axis. Without most, the largest sum sets this limit. The caption shows the title of
// the sample or mark under the pointer; without a pointer, it shows the title of the latest sample.
export function stackedBars(figure, samples, view) {
  if (!uPlot) return load(figure, samples, view);
  for (const [old, chart] of charts) if (!old.isConnected && charts.delete(old)) chart.destroy();
  if (!figure.isConnected) return; // its page was closed in the meantime
  let chart = charts.get(figure);
  if (!chart || chart.kinds.join() !== view.kinds.join()) {
    chart?.destroy();
    charts.set(figure, (chart = newChart(figure, view.kinds)));
  }
  chart.draw(samples, view);
}

let uPlot; // its class, once it is loaded
const waiting = new Map(); // the latest arguments of stackedBars by figure, until uPlot is loaded

// load loads uPlot, which takes 20 ms to start, in a task of its own. Then it draws what is waiting, one chart a task.
async function load(...chart) {
  const begun = waiting.size > 0;
  waiting.set(chart[0], chart);
  if (begun) return;
  try {
    uPlot = (await import("./uplot.js")).default;
    for (const args of waiting.values()) setTimeout(() => stackedBars(...args));
  } catch {
    for (const figure of waiting.keys())
      figure.replaceChildren(el("figcaption", {}, "the chart could not be loaded; reload the page"));
  } finally {
    waiting.clear(); // after an error, the next chart loads it again
  }
}

function newChart(figure, kinds) {
  let samples = [],
    view = { kinds, marks: [], labels: [] };
  const plot = el("div", { role: "img", "aria-label": figure.dataset.label }),
    caption = el("figcaption");
  figure.replaceChildren(plot, caption);
  const grid = () => cssVariable("--line"),
    text = () => cssVariable("--quiet");
  const u = new uPlot(
    {
      width: figure.clientWidth || 800,
      height,
      padding: [8, 20, 0, 0],
      legend: { show: false },
      cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
      scales: {
        x: { time: false, range: () => [view.from, view.to] },
        y: { range: (_, least, largest) => [0, view.most || ceiling(largest)] },
      },
      axes: [
        { stroke: text, size: 28, gap: 8, grid: { show: false }, ticks: { show: false }, splits: () => view.labels.map(l => l[0]), values: () => view.labels.map(l => l[1]) },
        { stroke: text, size: 48, grid: { stroke: grid, width: 1 }, ticks: { show: false }, splits: (_, axis, least, largest) => (largest === 1 ? [0, 1] : [0, largest / 2, largest]), values: (_, all) => all.map(v => number.format(v)) },
      ],
      // The series are sums of kinds. The largest sum is drawn first, and the smaller ones on top of it.
      series: [{}, ...kinds.toReversed().map(kind => ({ fill: () => cssVariable(colours[kind]), width: 0, points: { show: false }, paths: bars }))],
      hooks: { draw: [drawMarks], setCursor: [showCaption] },
    },
    [[], ...kinds.map(() => [])],
    plot,
  );
  const resized = new ResizeObserver(() => u.setSize({ width: figure.clientWidth || 800, height }));
  resized.observe(figure);

  // bars returns the path of a series: a bar from the beginning of each sample to its end. (The bars of uPlot are as
  // narrow as the shortest time between two samples.)
  function bars(u, series) {
    const fill = new Path2D(),
      bottom = u.bbox.top + u.bbox.height;
    samples.forEach((s, i) => {
      const begin = Math.max(s.begin ?? s.at - view.step, i ? samples[i - 1].at : -Infinity),
        left = u.valToPos(begin, "x", true),
        top = u.valToPos(u.data[series][i], "y", true);
      fill.rect(left, top, Math.max(1, u.valToPos(s.at, "x", true) - left - devicePixelRatio), bottom - top);
    });
    return { fill };
  }

  function drawMarks(u) {
    u.ctx.save();
    u.ctx.strokeStyle = cssVariable("--retried");
    u.ctx.lineWidth = 2 * devicePixelRatio;
    u.ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
    for (const m of view.marks) {
      const x = u.valToPos(m.at, "x", true);
      u.ctx.beginPath();
      u.ctx.moveTo(x, u.bbox.top);
      u.ctx.lineTo(x, u.bbox.top + u.bbox.height);
      u.ctx.stroke();
    }
    u.ctx.restore();
  }

  function showCaption(u) {
    const { left } = u.cursor,
      over = left >= 0;
    const mark = over && view.marks.find(m => Math.abs(u.valToPos(m.at, "x") - left) < 5);
    const at = over ? u.posToVal(left, "x") : 0;
    const sample = over ? samples.find(s => at > s.at - view.step && at <= s.at) : samples.at(-1);
    caption.textContent = (mark || sample)?.title || "";
  }

  return {
    kinds,
    draw(newSamples, newView) {
      samples = newSamples;
      view = { marks: [], ...newView };
      view.marks = view.marks.filter(m => m.at > view.from);
      const shown = kinds.filter(k => samples.some(s => s[k] > 0));
      if (view.marks.length) shown.push("mark");
      figure.dataset.kinds = shown.join(" ");
      const data = [samples.map(s => s.at)],
        sums = samples.map(() => 0);
      for (const k of kinds) {
        samples.forEach((s, i) => (sums[i] += s[k]));
        data.splice(1, 0, [...sums]);
      }
      u.setData(data);
      showCaption(u);
    },
    redraw: () => u.redraw(),
    destroy() {
      resized.disconnect();
      u.destroy();
    },
  };
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach(c => c.redraw()));

// The colour of each kind, a variable of dashboard.css.
const colours = { first: "--ok", delivered: "--ok", retried: "--retried", refused: "--half", failed: "--bad" };

const cssVariable = name => getComputedStyle(document.documentElement).getPropertyValue(name);

// ceiling returns the smallest of 1, 2, 5, 10, 20, ... that is at least n. For n below 1, the numbers continue
// downwards with 0.5, 0.2, 0.1, ...
function ceiling(n) {
  if (!(n > 0)) return 1;
  const ten = 10 ** Math.floor(Math.log10(n));
  return [1, 2, 5, 10].map(f => f * ten).find(x => x >= n);
}
