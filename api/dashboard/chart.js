// Charts: stacked bars over time.
import { el, number } from "./dom.js";

// ceiling returns the smallest of 1, 2, 5, 10, 20, ... that is at least n; for values below 1, of 0.1, 0.2, 0.5, ...
function ceiling(n) {
  if (n <= 0) return 1;
  const ten = 10 ** Math.floor(Math.log10(n));
  return [1, 2, 5, 10].map(f => f * ten).find(x => x >= n);
}

// stackedBars draws samples as stacked bars. Each sample has its end at, a duration of step ms, a title, and a value
// for each kind. from and to are the limits of the time axis, in ms; labels are [time, text, text-anchor]. most is the
// end of the value axis; without it, the largest sum determines it.
export function stackedBars(svg, samples, { kinds, from, to, step, labels, marks = [], most: fixed }) {
  const width = svg.clientWidth || 800,
    height = 150,
    left = 44,
    bottom = 18,
    top = 8;
  const high = height - bottom - top;
  const total = s => kinds.reduce((sum, k) => sum + s[k], 0);
  const most = fixed || ceiling(Math.max(0, ...samples.map(total)));
  const y = n => top + high * (1 - n / most),
    x = at => left + ((at - from) / (to - from)) * (width - left);
  const lines = [0, 0.5, 1].flatMap(part => [
    el("line", { x1: left, x2: width, y1: y(part * most), y2: y(part * most) }),
    el("text", { x: left - 6, y: y(part * most) + 4, "text-anchor": "end" }, number.format(part * most)),
  ]);
  const times = labels.map(([at, text, anchor]) =>
    el("text", { x: x(at), y: height - 4, "text-anchor": anchor || "middle" }, text),
  );
  const wide = Math.max(1, (step / (to - from)) * (width - left) - 1);
  const bars = samples.map(s => {
    const g = el("g", {}, el("title", {}, s.title));
    let sum = 0;
    for (const kind of kinds) {
      if (s[kind] <= 0) continue;
      g.append(
        el("rect", {
          class: kind,
          x: x(s.at) - wide,
          width: wide,
          y: y(sum + s[kind]),
          height: (high * s[kind]) / most,
        }),
      );
      sum += s[kind];
    }
    return g;
  });
  const lists = marks
    .filter(m => m.at > from)
    .map(m =>
      el("g", { class: "mark" }, el("line", { x1: x(m.at), x2: x(m.at), y1: top, y2: top + high }), el("title", {}, m.title)),
    );
  svg.replaceChildren(...lines, ...times, ...bars, ...lists);
}
