// The latest requests, and the attempts of one request over time.
import { api } from "./api.js";
import { $, address, clock, date, el, instant, link, openDialog, pill, right, rows, span, words } from "./dom.js";
import { eachSecond, watch } from "./live.js";
import { gatewayNow } from "./session.js";

const keep = 1000,
  shownRequests = 15;
let requests = new Map(),
  chosen = address.get("requests") || "retried";

const inFlight = r => r.state !== "done";
const refused = r => r.status === 403 || r.status === 429; // by the target, or by the gateway itself
const filters = {
  all: () => true,
  retried: r => r.attempts.length > 1 || r.current_attempt > 0,
  failed: r => !inFlight(r) && (r.outcome !== "success" || refused(r)),
  inflight: inFlight,
};
if (!filters[chosen]) chosen = "retried";

watch({ views: ["requests"], shown: $("requests") }, async () => {
  const list = await api("requests?limit=" + (requests.size ? 200 : keep));
  for (const [id, r] of requests) if (inFlight(r)) requests.delete(id);
  for (const r of list.requests) requests.set(r.id, r);
  const sorted = [...requests.values()].sort((a, b) => b.started_at.localeCompare(a.started_at)).slice(0, keep);
  requests = new Map(sorted.map(r => [r.id, r]));
  showRequests();
});
eachSecond(() => [...requests.values()].some(inFlight) && showRequests()); // their times pass

function showRequests() {
  const now = gatewayNow(),
    text = $("findrequest").value.trim().toLowerCase();
  const matches = r =>
    !text || [r.id, r.client_request_id, r.host, r.method, r.outcome, String(r.status), ...r.attempts.map(a => a.proxy_id)].some(s => s?.toLowerCase().includes(text));
  const list = [...requests.values()].filter(r => filters[chosen](r) && matches(r)).slice(0, shownRequests);
  rows(
    $("requests"),
    list,
    r => r.id,
    r => {
      const took = ((inFlight(r) ? now : instant(r.finished_at)) - instant(r.started_at)) / 1000;
      return [
        [link(clock(r.started_at), () => showRequest(r.id), "the attempts of " + r.id), r.started_at],
        [r.method + " " + r.host, r.id],
        [steps(r, now), inFlight(r) ? now : "done"],
        right(span(Math.max(took, 0))),
        [pill(colour(r), inFlight(r) ? r.state : String(r.status || r.outcome)), r.state + r.outcome],
      ];
    },
  );
  for (const tr of $("requests").rows) tr.cells[2].className = "steps";
  $("norequests").textContent = list.length ? "" : noRequests(text);
}

function noRequests(text) {
  if (!requests.size) return "no requests yet";
  const latest = "none of the latest " + requests.size;
  if (text) return latest + " matches";
  return { retried: latest + " needed a retry", failed: latest + " failed", inflight: "no request is in flight" }[chosen];
}

// colour returns the state whose colour a request gets.
function colour(r) {
  if (inFlight(r)) return "half_open";
  if (r.outcome === "success" && refused(r)) return "refused";
  return { success: "closed", cancelled: "" }[r.outcome] ?? "open";
}

// attemptClass returns the class of an attempt: its outcome, or refused for a response with which targets refuse clients.
export const attemptClass = a => (a.outcome === "success" && (a.status_code === 403 || a.status_code === 429) ? "refused" : a.outcome);

// steps draws the attempts of a request in order, with the backoffs between them.
export function steps(r, now) {
  const list = [];
  r.attempts.forEach((a, i) => {
    const beside = a.hedge || (i > 0 && a.attempt === 0 && r.attempts[i - 1].hedge); // both were in flight
    const arrow = beside ? "∥ hedge" : "→ " + (a.delay_before ? span(a.delay_before) + " →" : "");
    if (i) list.push(el("span", { class: "gap" }, arrow));
    const result = a.status_code || (a.error_message || a.outcome).split(": ").pop();
    list.push(
      el(
        "span",
        { class: "step " + attemptClass(a), title: (a.error_message || a.outcome) + ", after " + span(a.latency) },
        a.proxy_id + " " + result,
      ),
    );
  });
  if (inFlight(r) && r.attempts.length) list.push(el("span", { class: "gap" }, "→"));
  if (r.state === "waiting") {
    list.push(
      el(
        "span",
        { class: "step running" },
        "next attempt in " + span(Math.max(0, (Date.parse(r.next_retry_time) - now) / 1000)),
      ),
    );
  } else if (inFlight(r)) {
    list.push(el("span", { class: "step running" }, (r.proxy_id || "") + " …"));
  }
  return list.length ? list : [el("span", { class: "gap" }, r.outcome === "success" ? "" : words(r.outcome || ""))];
}

function choose(filter) {
  chosen = filter;
  address.set({ requests: chosen === "retried" ? "" : chosen });
  for (const b of $("filter").children) b.setAttribute("aria-pressed", b.value === chosen);
  showRequests();
}
for (const b of $("filter").children) {
  b.setAttribute("aria-pressed", b.value === chosen);
  b.onclick = () => choose(b.value);
}

// findRequests shows the requests of a filter.
export function findRequests(filter) {
  choose(filter);
  $("filter").scrollIntoView({ block: "center" });
}
$("findrequest").oninput = showRequests;

// --- One request -----------------------------------------------------------------

const dialog = $("request");
dialog.querySelector(".close").onclick = () => dialog.close();
dialog.onclose = () => address.set({ request: "" });

// showRequest opens the page of a request: its attempts over time.
export async function showRequest(id) {
  address.set({ request: id });
  dialog.querySelector("h2").textContent = "Request " + id;
  dialog.querySelector(".content").replaceChildren("…");
  openDialog(dialog);
  try {
    drawRequest(await api("requests/" + encodeURIComponent(id)));
  } catch (e) {
    dialog.querySelector(".content").textContent = e.message;
  }
}

function drawRequest(r) {
  const begin = instant(r.started_at),
    end = Math.max(begin + 0.001, inFlight(r) ? gatewayNow() : instant(r.finished_at));
  const place = (from, to) => [((from - begin) / (end - begin)) * 100, Math.max(0.5, ((to - from) / (end - begin)) * 100)];
  const lines = r.attempts.map(a => {
    const from = instant(a.started_at),
      [left, width] = place(from, Math.min(end, from + 1000 * a.latency));
    const bar = el("i", { class: "step " + attemptClass(a), title: a.error_message || words(a.cause || a.outcome) });
    bar.style.left = left + "%";
    bar.style.width = width + "%";
    const result = (a.status_code ? a.status_code + " " : "") + words(a.cause || a.outcome);
    return el(
      "tr",
      {},
      el("td", {}, a.proxy_id),
      el("td", {}, el("div", { class: "lane" }, bar)),
      el("td", { class: "n" }, "+" + span((from - begin) / 1000)),
      el("td", { class: "n" }, span(a.latency)),
      el("td", {}, (a.hedge ? "hedge: " : "") + result),
    );
  });
  const took = "took " + span((end - begin) / 1000);
  const result = colour(r) === "refused" ? "refused by the target" : words(r.outcome || "");
  const outcome = inFlight(r) ? r.state : (r.status ? r.status + ", " : "") + result;
  dialog.querySelector(".content").replaceChildren(
    el("p", {}, r.method + " " + r.host + ": " + outcome + "; " + took + ", " + date(begin)),
    r.client_request_id ? el("p", { class: "quiet" }, "X-Request-Id: " + r.client_request_id) : "",
    el(
      "table",
      { class: "waterfall" },
      el("thead", {}, el("tr", {}, ...["proxy", "attempt", "began", "took", "result"].map(t => el("th", {}, t)))),
      el("tbody", {}, ...lines),
    ),
  );
}

if (address.get("request")) showRequest(address.get("request"));
