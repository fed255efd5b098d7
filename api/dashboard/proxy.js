// The page of one proxy: its settings, why its attempts fail, its latest requests, and actions.
import { api } from "./api.js";
import { $, address, bytes, clock, count, date, el, link, number, percent, pill, span, words } from "./dom.js";
import { attemptChart, attemptHistory } from "./history.js";
import { perform } from "./many.js";
import { openPage } from "./page.js";
import { showRequest, steps } from "./requests.js";
import { gatewayNow } from "./session.js";

const page = openPage($("proxy"), "proxy", ["proxies", "requests"], async (id, content, current) => {
  const path = encodeURIComponent(id);
  const [x, breaker, recent] = await Promise.all([
    api("proxies/" + path),
    api("circuit-breakers/" + path),
    api("requests?limit=10&proxy_id=" + path),
  ]);
  if (!current()) return;
  content.replaceChildren(...parts(x, breaker, recent.requests));
  attemptHistory($("proxyhistory"), "proxy_id=" + path).catch(() => {});
});

// showProxy opens the page of a proxy.
export const showProxy = page.show;

function parts(x, breaker, requests) {
  const open = breaker.retry_in_seconds != null ? ", half-open in " + Math.ceil(breaker.retry_in_seconds) + " s" : "";
  const facts = [
    ["URL", x.url],
    ["breaker", [pill(breaker.state), ` ${breaker.failure_count} ${breaker.failure_count === 1 ? "failure" : "failures"} in the window` + open]],
    ["success", x.samples ? percent(x.success_rate) + " of the last " + count(x.samples, "attempt") : "no attempts yet"],
    ["latency", x.avg_latency ? span(x.avg_latency) : "–"],
    ["in flight", number.format(x.in_flight)],
    ["uses", number.format(x.uses)],
    ["last used", x.last_used ? date(x.last_used) : "never"],
    ["region", x.region || "–"],
    ["vendor", x.vendor || "–"],
    ["exit address", x.exit_address || "not known"],
    ["source", x.source],
  ];
  if (x.banned_until) facts.push(["banned until", date(x.banned_until)]);
  if (x.last_check) facts.push(["last check", check(x.last_check)]);
  const list = [
    el("dl", {}, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, ...[value].flat())])),
    el(
      "p",
      { class: "actions" },
      ...[
        ["test", "test now"],
        ["reset", "reset breaker"],
        x.banned_until ? ["unban", "end ban"] : ["ban", "ban for an hour"],
        ["drain", "drain and remove"],
        ["delete", "remove at once"],
      ].map(([name, text]) =>
        el("button", { type: "button", class: "admin", onclick: () => perform(name, [x.id]).then(page.update) }, text),
      ),
    ),
  ];
  if (breaker.why?.summary) list.push(el("h3", {}, "Evidence against it"), el("p", {}, breaker.why.summary));
  if (x.failure) list.push(el("h3", {}, "It fails with"), el("p", {}, x.failure.reason));
  if (x.reasons) list.push(el("h3", {}, "Attempts of the last hour by cause"), reasonsTable(x));
  list.push(el("h3", {}, "Attempts of the last six hours"), attemptChart("proxyhistory"));
  list.push(el("h3", {}, "Its latest requests"), requestTable(requests));
  return list;
}

// check is the result of a health check.
function check(c) {
  const result = c.passed ? "passed in " + span(c.latency) : "failed: " + c.error;
  return clock(c.at) + ", " + result + (c.tls_intercepted ? "; the proxy intercepts TLS" : "");
}

export function reasonsTable(x) {
  if (!x.reasons.length) return el("p", { class: "quiet" }, "none");
  const lines = x.reasons.map(r =>
    el("tr", {}, el("td", {}, words(r.cause)), el("td", { class: "n" }, number.format(r.count)), el("td", { class: "n" }, percent(r.share)), el("td", {}, clock(r.last))),
  );
  const statuses = Object.entries(x.traffic?.statuses || {}).filter(([status]) => /^\d+$/.test(status));
  const more = [
    statuses.length && "statuses: " + statuses.map(([status, n]) => status + " × " + number.format(n)).join(", "),
    x.traffic?.bytes && bytes(x.traffic.bytes),
  ].filter(Boolean);
  return el("div", {}, el("table", {}, ...lines), el("p", { class: "quiet" }, more.join(" · ")));
}

function requestTable(list) {
  if (!list.length) return el("p", { class: "quiet" }, "none among the latest requests");
  return el(
    "table",
    { class: "requests" },
    ...list.map(r =>
      el(
        "tr",
        {},
        el("td", {}, link(clock(r.started_at), () => showRequest(r.id), "the attempts of " + r.id)),
        el("td", {}, r.method + " " + r.host),
        el("td", { class: "steps" }, ...steps(r, gatewayNow())),
      ),
    ),
  );
}

if (address.get("proxy")) showProxy(address.get("proxy"));
