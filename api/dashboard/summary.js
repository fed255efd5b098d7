// The summary: one sentence on the state of the pool, the totals, and the requests of the last two minutes.
import { api } from "./api.js";
import { isOpen } from "./connection.js";
import { $, count, el, instant, link, number, percent, span, clock } from "./dom.js";
import { eachSecond, listen, watch } from "./live.js";
import { filterBy } from "./proxies.js";
import { findRequests } from "./requests.js";
import { gatewayNow } from "./session.js";
import { showTarget } from "./target.js";
import { stackedBars } from "./chart.js";

// The requests by their outcome.
const kinds = {
  first: "successful at the first attempt",
  retried: "successful after a retry",
  refused: "refused by the target",
  failed: "failed",
};

// countsOf returns the number of requests of each kind since the start.
function countsOf(summary) {
  const by = summary.success_by_attempt,
    first = by["0"] || 0;
  const ok = Object.values(by).reduce((a, b) => a + b, 0),
    refused = summary.target_refused;
  // The number of attempts of a refused request is unknown; most have one.
  return { first: Math.max(0, first - refused), retried: ok - Math.max(first, refused), refused, failed: summary.total_requests - ok };
}

const chartSeconds = 120,
  leastSample = 500; // ms; the rate of a shorter time is not worth a bar
let before,
  samples = [];

watch({ polled: 1000, streamed: true }, async () => showTotals(await api("metrics/retries")));
watch({ polled: 2000, streamed: true }, async () => showStatus(await api("status")));
listen(({ type, data }) => {
  if (type === "totals") showTotals(data);
  if (type === "status") showStatus(data);
});

// While nothing changes, there are no new totals.
const quiet = 2500; // ms
eachSecond(() => isOpen() && before && gatewayNow() - before.at > quiet && showTotals(before.totals, gatewayNow() - 1000));

// showTotals shows the totals m, which are of the time now. The stream reports this time, so that the rates do not depend
// on how long an event is on its way.
function showTotals(m, now = m.at ? instant(m.at) : gatewayNow()) {
  const c = countsOf(m),
    ok = c.first + c.retried + c.refused;
  const elapsed = before && m.total_requests >= before.total ? now - before.at : NaN,
    soon = Math.abs(elapsed) < leastSample;
  if (elapsed >= leastSample && elapsed < 5000) {
    const per = 1000 / elapsed,
      sample = { at: now, begin: before.at };
    for (const k of Object.keys(kinds)) sample[k] = Math.max(0, c[k] - before[k]) * per;
    sample.title = clock(now) + ": " + Object.entries(kinds).map(([k, text]) => Math.round(sample[k]) + " " + text).join(", ");
    samples.push(sample);
  }
  before = soon ? { ...before, totals: m } : { ...c, at: now, total: m.total_requests, totals: m };
  samples = samples.filter(s => s.at > now - chartSeconds * 1000 && s.at <= now + leastSample);
  const last = samples[samples.length - 1];
  tiles("requests", [
    [last ? number.format(Math.round(Object.keys(kinds).reduce((sum, k) => sum + last[k], 0))) : "–", "requests per second", ""],
    [number.format(m.total_requests), "requests", count(m.total_attempts, "attempt")],
    [
      m.total_requests ? percent((ok - m.target_refused) / m.total_requests) : "–",
      "successful",
      number.format(c.failed) + " failed, " + number.format(m.target_refused) + " refused by the target (403, 429)",
      m.target_refused > ok / 2,
    ],
    [
      number.format(c.retried),
      "successful after a retry",
      count(m.total_retries, "retry", "retries") + ", " + span(m.retry_latency_seconds_total) + " of backoff",
    ],
  ]);
  if (!document.hidden) draw(now);
}

function draw(now) {
  const from = now - chartSeconds * 1000;
  const labels = [90, 60, 30].map(s => [now - s * 1000, "−" + s + " s"]);
  labels.push([from, "−" + chartSeconds + " s"], [now, "now"]);
  stackedBars($("chart"), samples, { kinds: Object.keys(kinds), from, to: now, step: 1000, labels });
}

// tiles shows the tiles of a group: [value, name, more, alarm]. With alarm the value is red. The group "service" is the
// last one, whichever the page gets first.
function tiles(group, list) {
  const old = [...$("tiles").querySelectorAll("." + group)],
    next = group === "service" ? null : $("tiles").querySelector(".service");
  list.forEach(([value, name, more, alarm], i) => {
    const tile =
      old[i] || $("tiles").insertBefore(el("div", { class: "tile " + group }, el("b"), el("span"), el("small")), next);
    [value, name, more].forEach((text, n) => {
      if (tile.children[n].textContent !== text) tile.children[n].textContent = text;
    });
    tile.classList.toggle("alarm", !!alarm);
  });
}

// --- The sentence, the title and the icon --------------------------------------

// showStatus is called while the page is hidden, too: its title and icon show that proxies fail.
function showStatus(s) {
  const p = s.proxies,
    r = s.requests;
  tiles("service", [
    [
      number.format(p.closed) + " of " + number.format(p.total),
      "breakers closed",
      number.format(p.total - p.closed) + " open or half-open",
    ],
  ]);
  const level = severity(p, r);
  const text = s.summary[0].toUpperCase() + s.summary.slice(1);
  if ($("verdict").textContent !== text) $("verdict").textContent = text;
  $("verdict").className = level;
  const key = JSON.stringify([s.failures, s.losses]);
  if ($("reasons").dataset.key !== key) {
    $("reasons").dataset.key = key;
    $("reasons").replaceChildren(...s.failures.map(reason), ...s.losses.map(loss));
  }
  const alarm = p.failing ? p.failing + " of " + p.total : Math.floor((100 * (r.delivered - r.target_refused)) / r.total) + " %";
  document.title = (level === "ok" ? "" : "⚠ " + (p.total ? alarm : "no proxies") + " – ") + "Whirlpool";
  showIcon(level);
}

// reason is a group of failing proxies as a link to them.
function reason(f) {
  const text = count(f.proxies, "proxy", "proxies") + ": " + f.reason;
  return el("li", {}, link(text, () => filterBy({ reason: f.reason, q: "", state: "", region: "", vendor: "" }), "show these proxies"));
}

// loss is a group of lost requests as a link to their target or, without one, to the requests.
function loss(l) {
  const proxies = l.proxy || (l.proxies ? count(l.proxies, "proxy", "proxies") : ""),
    text = count(l.requests, "request") + " lost: " + l.reason + (proxies && ", through " + proxies);
  return el("li", {}, l.host ? link(text, () => showTarget(l.host), "show this target") : link(text, () => findRequests("failed"), "show these requests"));
}

// severity is "bad" if requests are lost or half of the pool fails, "warn" if proxies fail, otherwise "ok".
function severity(p, r) {
  const lost = r.total - (r.delivered - r.target_refused);
  if (p.total === 0 || lost > r.total / 20 || 2 * p.failing > p.total) return "bad";
  return p.failing > 0 || lost > 0 ? "warn" : "ok";
}

const icon = document.querySelector("link[rel=icon]"),
  green = icon.href;
const colours = { warn: "d9a021", bad: "c93a3a" };

// showIcon gives the icon of the page the colour of the level.
function showIcon(level) {
  const href = colours[level] ? green.replace("1f7a47", colours[level]) : green;
  if (icon.href !== href) icon.href = href;
}
