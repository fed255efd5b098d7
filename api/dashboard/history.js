// The last hours: requests, success, latency, retries, bans or cost by time, and the changes in that time.
import { api } from "./api.js";
import { $, address, count, el, hour, number, percent, span } from "./dom.js";
import { stackedBars } from "./chart.js";
import { eachSecond, watch } from "./live.js";
import { gatewayNow } from "./session.js";

const windows = { "1h": 3600e3, "6h": 6 * 3600e3, "24h": 24 * 3600e3 };
let chosen = windows[address.get("window")] ? address.get("window") : "1h";

const delivered = p => p.delivered - p.target_refused;

// Each view has the parts of a bar, from the bottom up: the class of its colour, its name and its value in a point of
// the history. A view may have the field most, the upper limit of the value axis.
const views = {
  requests: {
    parts: [
      ["delivered", "delivered", delivered],
      ["refused", "refused by the target (403, 429)", p => p.target_refused],
      ["failed", "failed", p => p.requests - p.delivered],
    ],
  },
  success: {
    parts: [["delivered", "delivered, in % of the requests", p => (p.requests ? (100 * delivered(p)) / p.requests : 0)]],
    most: 100,
  },
  latency: {
    parts: [
      ["retried", "p50, in ms", p => 1000 * p.latency_p50],
      ["refused", "p95, in ms", p => 1000 * Math.max(0, p.latency_p95 - p.latency_p50)],
    ],
  },
  retries: { parts: [["retried", "retries", p => p.retries]] },
  bans: { parts: [["failed", "responses that a rule or the judge calls a ban", p => p.banned_responses]] },
  cost: { parts: [["retried", "cost, in the unit of the prices", p => p.cost]] },
};
const choice = $("historyview");
choice.value = views[address.get("view")] ? address.get("view") : "requests";

const moves = 30; // seconds after which the bars are drawn again, because the time axis moves
let latest,
  drawn; // seconds since the chart was drawn

const round = watch({ views: ["history"], every: 10000, polled: 30000, shown: $("history") }, async () =>
  draw((latest = await api("metrics/history?window=" + chosen))),
);
eachSecond(() => latest && ++drawn >= moves && draw(latest));

// draw draws a bar for each point of the history.
function draw(h) {
  drawn = 0;
  const view = views[choice.value],
    step = h.step * 1000,
    points = h.points.filter(p => p.requests !== undefined);
  const to = gatewayNow(),
    from = to - h.window * 1000;
  const bars = points.map(p => {
    const begin = Date.parse(p.timestamp),
      bar = { begin, at: Math.min(to, begin + step), title: title(p, begin) };
    for (const [kind, , value] of view.parts) bar[kind] = value(p);
    return bar;
  });
  const part = h.window * 250;
  const labels = [1, 2, 3].map(n => [from + n * part, hour(from + n * part)]);
  labels.push([from, hour(from)], [to, hour(to)]);
  const marks = h.changes.map(c => ({ at: Date.parse(c.at), title: hour(c.at) + ": " + c.text }));
  stackedBars($("history"), bars, { kinds: view.parts.map(p => p[0]), from, to, step, labels, marks, most: view.most });
  showLegend(view);
  showChanges(h.changes);
}

function showLegend(view) {
  const list = $("historylegend");
  if (list.dataset.view === choice.value) return;
  list.dataset.view = choice.value;
  const items = [...view.parts, ["mark", "a change, or the start"]].map(([kind, name]) => {
    const li = document.createElement("li");
    li.className = kind;
    li.textContent = name;
    return li;
  });
  list.replaceChildren(...items);
}

const shownChanges = 5;

function showChanges(list) {
  const text = list.slice(-shownChanges).map(c => hour(c.at) + " " + c.text);
  $("changes").textContent = text.length ? "Latest changes: " + text.join("; ") : "";
}

function title(p, at) {
  const parts = [count(p.requests, "request")];
  if (p.requests) parts.push(percent(delivered(p) / p.requests) + " delivered", number.format(p.requests - p.delivered) + " failed");
  if (p.target_refused) parts.push(number.format(p.target_refused) + " refused by the target");
  if (p.retries) parts.push(count(p.retries, "retry", "retries"));
  if (p.banned_responses) parts.push(count(p.banned_responses, "ban"));
  if (p.attempts) parts.push("latency p50 " + span(p.latency_p50) + ", p95 " + span(p.latency_p95));
  if (p.cost) parts.push("cost " + +p.cost.toPrecision(3));
  return hour(at) + ": " + parts.join(", ");
}

for (const b of $("windows").children) {
  b.setAttribute("aria-pressed", b.value === chosen);
  b.onclick = () => {
    chosen = b.value;
    address.set({ window: chosen === "1h" ? "" : chosen });
    for (const other of $("windows").children) other.setAttribute("aria-pressed", other === b);
    round();
  };
}
choice.onchange = () => {
  address.set({ view: choice.value === "requests" ? "" : choice.value });
  if (latest) draw(latest);
};
document.addEventListener("changed", round);

// attemptChart returns a chart for attemptHistory: the figure with the given id, and a text that stands for an empty one.
export const attemptChart = id =>
  $(id)?.parentElement ||
  el("div", {}, el("figure", { id, class: "chart", "data-label": "Attempts by time" }), el("p", { class: "quiet", hidden: "" }, "none"));

// attemptHistory draws the attempts of the last hours through one proxy or at one target. The parameter query is
// proxy_id=ID or host=HOST.
export async function attemptHistory(figure, query) {
  const h = await api("metrics/history?window=6h&" + query),
    to = gatewayNow(),
    from = to - h.window * 1000,
    step = h.step * 1000;
  const bars = h.points.map(p => {
    const good = (p.causes.answered || 0) + (p.causes.tunnel_open || 0) - (p.statuses[403] || 0) - (p.statuses[429] || 0),
      begin = Date.parse(p.timestamp);
    const causes = Object.entries(p.causes).map(([c, n]) => n + " " + c.replaceAll("_", " "));
    const title = hour(begin) + ": " + causes.join(", ");
    return { begin, at: Math.min(to, begin + step), delivered: Math.max(0, good), failed: p.attempts - Math.max(0, good), title };
  });
  const labels = [[from, hour(from)], [to, hour(to)]];
  const some = bars.some(b => b.delivered || b.failed);
  figure.hidden = !some;
  figure.nextElementSibling.hidden = some;
  if (some) stackedBars(figure, bars, { kinds: ["delivered", "failed"], from, to, step, labels });
}
