// The events: transitions of breakers, changes of the configuration, bans and faults of plugins.
import { api } from "./api.js";
import { $, address, clock, count, date, el, number, pill, rows, words } from "./dom.js";
import { listen, watch } from "./live.js";
import { gatewayNow } from "./session.js";

const bandSeconds = 600,
  shownEvents = 12,
  keep = 500;

// transitions of the last ten minutes by proxy, oldest first
export let transitions = new Map();
let firstKnown = Infinity;

// began returns the time from which the transitions are complete.
export const began = () => Math.min(firstKnown, gatewayNow());

watch({ views: ["transitions"] }, async () => {
  const m = await api("circuit-breakers/metrics?hours=1&sort=-timestamp&limit=300");
  const from = gatewayNow() - bandSeconds * 1000,
    list = m.events.reverse();
  transitions = new Map();
  for (const e of list) {
    firstKnown = Math.min(firstKnown, Date.parse(e.timestamp));
    if (Date.parse(e.timestamp) <= from) continue;
    if (!transitions.has(e.proxy_id)) transitions.set(e.proxy_id, []);
    transitions.get(e.proxy_id).push(e);
  }
  if (m.total > list.length) firstKnown = Date.parse(list[0].timestamp); // the earlier ones were left out
  const latest = list.slice(-shownEvents).reverse();
  rows(
    $("transitions"),
    latest,
    e => e.timestamp + e.proxy_id + e.to_state,
    e => [
      clock(e.timestamp),
      e.proxy_id,
      [[words(e.from_state) + " → ", pill(e.to_state)], e.to_state],
      [el("span", { title: e.why }, words(e.reason) + (e.why ? ": " + e.why : "")), e.reason],
    ],
  );
  $("notransitions").hidden = latest.length > 0;
});

// learn records the last changes of breakers. The state of a breaker is known from its last change on. The first known
// time is the earliest of these changes.
export function learn(breakers) {
  for (const x of breakers) firstKnown = Math.min(firstKnown, Date.parse(x.last_state_change));
}

// --- Events ------------------------------------------------------------------------

const log = [], // the latest events, the newest first: id, at, type, text
  kind = $("eventtype");
let shownLog = shownEvents;
kind.value = address.get("events") || "";

listen(event => {
  if (["views", "status", "totals"].includes(event.type)) return; // these are not events, but the state
  if (event.id && log.some(e => e.id === event.id)) return; // a new stream repeats the events that are kept
  const at = Date.parse(event.data.at || event.data.timestamp || event.data.updated_at) || Date.now(),
    text = eventText(event, at);
  log.unshift({ id: event.id, at, type: event.type, text });
  log.length = Math.min(log.length, keep);
  if (changing.includes(event.type)) document.dispatchEvent(new Event("changed"));
  scheduleLog();
});

const changing = ["policy", "reload", "activation"];

// eventText returns the fields of an event in words.
function eventText({ type, data }, at) {
  switch (type) {
    case "breaker":
      return data.proxy_id + ": " + words(data.from_state) + " → " + words(data.to_state) + ", " + words(data.reason) + (data.why ? ": " + data.why : "");
    case "ban":
      return data.proxy_id + (data.host ? " for " + data.host : "") + (Date.parse(data.until) <= at ? ": its ban has ended" : " until " + date(data.until));
    case "exhaustion":
      return (
        data.method + " " + data.host + ": " + (Object.keys(data.causes).map(words).join(", ") || words(data.outcome)) + (data.folded ? " (and " + count(data.folded, "more request") + ")" : "")
      );
    case "policy":
      return data.source === "file" ? "the policy of the configuration" : "changed: up to " + count(data.max_attempts, "attempt") + ", " + data.backoff_strategy;
    case "reload":
      return data.ok ? "the configuration was reloaded" : "the configuration was not reloaded: " + (data.faults || []).map(f => (f.key ? f.key + ": " : "") + f.message).join("; ");
    case "activation":
      return data.plugin + " is used for " + data.for;
    case "plugin_log":
      return data.plugin + ", " + data.level + ": " + data.text;
    case "plugin_fault":
    case "plugin_quarantine":
      return data.plugin + ": " + data.error + " (" + number.format(data.faults) + " of " + number.format(data.calls) + " calls)";
  }
  return Object.entries(data)
    .map(([name, value]) => words(name) + " " + value)
    .join(", ");
}

// scheduleLog draws the log soon, so that many events at once are drawn together.
let scheduled = false;
function scheduleLog() {
  if (scheduled) return;
  scheduled = true;
  setTimeout(() => {
    scheduled = false;
    showLog();
  }, 250);
}

function showLog() {
  const list = log.filter(e => !kind.value || kind.value.split(",").includes(e.type));
  rows(
    $("events"),
    list.slice(0, shownLog),
    e => e.id || e.at + e.text,
    e => [clock(e.at), words(e.type), e.text],
  );
  $("noevents").hidden = list.length > 0;
  $("moreevents").hidden = list.length <= shownLog;
}

kind.onchange = () => {
  address.set({ events: kind.value });
  showLog();
};
$("moreevents").onclick = () => {
  shownLog = keep;
  showLog();
};
