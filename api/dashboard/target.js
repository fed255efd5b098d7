// The targets with failures, and the page of one target: why attempts at it fail, by time, and which proxies get no
// requests for it.
import { api, button } from "./api.js";
import { $, address, clock, count, el, link, number, pill, rows, words } from "./dom.js";
import { attemptChart, attemptHistory } from "./history.js";
import { watch } from "./live.js";
import { openPage } from "./page.js";
import { reasonsTable, showProxy } from "./proxy.js";
import { attemptClass } from "./requests.js";
import { gatewayNow } from "./session.js";

const perPage = 12;
let shown = perPage;

const round = watch({ views: ["targets"], every: 5000, polled: 5000, shown: $("targets") }, async () => {
  const p = new URLSearchParams({ window: "1h", limit: shown }),
    text = $("findtarget").value.trim();
  if (text) p.set("q", text);
  const t = await api("targets?" + p);
  rows(
    $("targets"),
    t.targets,
    x => x.target,
    x => [
      [link(x.target, () => showTarget(x.target.replace(/:\d+$/, "")), "the attempts at " + x.target), x.target],
      x.suspect ? [pill("open", "suspect", "its requests get one attempt each"), "suspect"] : "",
      results(x),
      x.proxies_failing ? "through " + number.format(x.proxies_failing) + (x.proxies_failing === 1 ? " proxy" : " proxies") : "",
      x.last_failure ? "last at " + clock(x.last_failure) : "",
    ],
  );
  $("notargets").hidden = t.targets.length > 0;
  $("moretargets").hidden = t.targets.length >= t.total;
  $("moretargets").textContent = "show all " + number.format(t.total);
});
// results says how many attempts at a target failed or were refused. With recent failures, attempts and failures are of
// the last minutes.
function results(x) {
  const list = [];
  if (x.failures) list.push(number.format(x.failures) + " of " + count(x.attempts, "attempt") + " failed");
  if (x.refused) list.push(number.format(x.refused) + " refused");
  return list.join(", ");
}

$("findtarget").oninput = () => round();
$("moretargets").onclick = () => {
  shown = 1000;
  round();
};

const page = openPage($("target"), "target", ["targets", "requests"], async (host, content) => {
  const path = encodeURIComponent(host),
    [x, latest] = await Promise.all([api("targets/" + path + "?window=1h"), api("requests?limit=1000&host=" + path)]);
  const parts = [el("h3", {}, "Attempts of the last hour by cause"), reasonsTable(x)];
  parts.push(el("h3", {}, "Latest attempts by proxy"), byProxy(latest.requests));
  const chart = attemptChart("targethistory");
  parts.push(el("h3", {}, "Attempts of the last six hours"), chart);
  parts.push(el("h3", {}, "Proxies that get no requests for it"), banned(x.banned, host));
  content.replaceChildren(...parts);
  await attemptHistory($("targethistory"), "host=" + path);
});

export const showTarget = page.show;

// byProxy is a table of the proxies through which the latest requests have gone, the worst first.
function byProxy(requests) {
  const proxies = new Map();
  for (const a of requests.flatMap(r => r.attempts)) {
    const p = proxies.get(a.proxy_id) || { id: a.proxy_id, attempts: 0, bad: 0 };
    proxies.set(a.proxy_id, p);
    p.attempts++;
    if (attemptClass(a) === "success") continue;
    p.bad++;
    p.latest ||= (a.status_code ? a.status_code + " " : "") + words(a.cause || a.outcome);
  }
  if (!proxies.size) return el("p", { class: "quiet" }, "none among the latest 1,000 requests");
  const list = [...proxies.values()].sort((a, b) => b.bad - a.bad || b.attempts - a.attempts);
  const lines = list.slice(0, 12).map(p => [
    link(p.id, () => showProxy(p.id)),
    number.format(p.bad) + " of " + number.format(p.attempts) + " failed or refused",
    p.latest || "",
  ]);
  if (list.length > 12) lines.push(["and " + number.format(list.length - 12) + " more"]);
  return el("table", {}, ...lines.map(cells => el("tr", {}, ...cells.map(c => el("td", {}, c)))));
}

// banned is a table of the proxies that rest for a host, or are banned.
function banned(list, host) {
  if (!list.length) return el("p", { class: "quiet" }, "none");
  const lines = list.slice(0, 100).map(b => {
    const query = b.host ? "?host=" + encodeURIComponent(host) : "",
      path = "proxies/" + encodeURIComponent(b.proxy_id) + "/ban";
    const left = Math.max(1, Math.round((Date.parse(b.until) - gatewayNow()) / 1000));
    const undo = [path, { method: "POST", json: { for: left + "s", ...(b.host && { host }) } }];
    const done = { text: (b.host ? "The rest of " : "The ban of ") + b.proxy_id + " has ended", undo };
    const end = button(b.host ? "end rest" : "end ban", path + query, { method: "DELETE" }, { done });
    end.addEventListener("click", () => setTimeout(page.update, 500));
    return el("tr", {}, el("td", {}, b.proxy_id), el("td", {}, (b.host ? "rests" : "banned") + " until " + clock(b.until)), el("td", {}, end));
  });
  const more = list.length > 100 ? [el("p", { class: "quiet" }, "and " + number.format(list.length - 100) + " more")] : [];
  return el("div", {}, el("table", {}, ...lines), ...more);
}

if (address.get("target")) showTarget(address.get("target"));
