// The list of proxies. Only the visible rows are requested and drawn, so that pools of any size can be scrolled.
import { act, api, showError } from "./api.js";
import { $, address, attribute, clock, count, el, link, number, percent, span, write } from "./dom.js";
import { longList } from "./list.js";
import { eachSecond, watch } from "./live.js";
import { perform } from "./many.js";
import { showProxy } from "./proxy.js";
import { transitions, began, learn } from "./events.js";
import { gatewayNow } from "./session.js";

const bandSeconds = 600,
  bandWidth = 144; // px, as in dashboard.css
const emptyPool =
  "The pool is empty: add proxies with serve --proxies FILE, [[proxies]] in koanf.toml, or the form below";

const box = $("list"),
  filter = $("find");
let total = 0; // proxies that match the filter
export const uses = new Map(); // of each proxy that is near the visible ones: [time, uses] of each change in the last minute
const selected = new Set(); // ids

const conditions = ["q", "state", "region", "vendor", "reason"];

// filterQuery returns the parameters that select proxies. They are kept in the URL.
export function filterQuery() {
  const p = new URLSearchParams();
  for (const name of conditions) if (address.get(name)) p.set(name, address.get(name));
  return p;
}

// query returns the parameters of the list, without the page.
function query() {
  const p = filterQuery();
  if (address.get("sort")) p.set("sort", address.get("sort"));
  return p;
}

const list = longList(box, $("proxies"), {
  height: 32, // px, as in parts.css
  first: 1,
  keyOf: x => x.id,
  newRow,
  missing: () => round(),
});
let from = 0; // index of the first proxy that is requested

const round = watch({ views: ["proxies"], shown: box }, async () => {
  const p = query(),
    range = list.range();
  from = range.from;
  p.set("limit", range.limit);
  if (from) p.set("cursor", from);
  draw(...(await Promise.all([api("proxies?" + p), api("circuit-breakers?" + p)])));
});
eachSecond(list.update); // the time until a test passes, and the rates and bands move

function draw(p, b) {
  learn(b.circuit_breakers);
  for (const x of b.circuit_breakers) x.dueAt = x.retry_in_seconds == null ? 0 : Date.now() + 1000 * x.retry_in_seconds;
  const breakers = new Map(b.circuit_breakers.map(x => [x.proxy_id, x]));
  total = p.total;
  countUses(p.proxies, Date.now());
  for (const x of p.proxies) x.breaker = breakers.get(x.id) || { state: x.state };
  list.put(from, p.proxies, total);
  const some = filterQuery().size > 0;
  write(
    $("more"),
    total
      ? number.format(total) + (some ? " found" : total === 1 ? " proxy" : " proxies")
      : some
        ? "no proxy matches"
        : emptyPool,
  );
  showSelection();
}

// countUses keeps the uses of the given proxies, and discards those of all others.
function countUses(proxies, now) {
  const present = new Set();
  for (const x of proxies) {
    present.add(x.id);
    const past = (uses.get(x.id) || []).filter(([, n]) => n <= x.uses);
    if (past.at(-1)?.[1] !== x.uses) past.push([now, x.uses]);
    uses.set(x.id, past);
  }
  for (const id of uses.keys()) if (!present.has(id)) uses.delete(id);
}

// perSecond returns the uses of a proxy per second over the last minute.
function perSecond(id, now) {
  const past = uses.get(id);
  if (!past?.length) return 0;
  while (past.length > 1 && past[1][0] <= now - 60000) past.shift(); // the first entry has the uses at the beginning of the minute
  const [since, firstUses] = past[0];
  return (1000 * (past.at(-1)[1] - firstUses)) / Math.min(60000, Math.max(1000, now - since));
}

// newRow returns a row of the list. Its elements stay the same: show writes a proxy into them.
function newRow() {
  let x; // the proxy
  const check = el("input", {
    type: "checkbox",
    class: "admin",
    onchange: () => {
      check.checked ? selected.add(x.id) : selected.delete(x.id);
      showSelection();
    },
  });
  const id = link("", () => showProxy(x.id)),
    region = el("small"),
    state = el("span"),
    band = el("span", { class: "band", role: "img" }),
    share = el("i"),
    bar = el("span", { class: "bar" }, share),
    success = el("span"),
    reset = el("button", { type: "button", class: "admin" }, "reset");
  reset.onclick = () => act(reset, "circuit-breakers/" + encodeURIComponent(x.id) + "/reset", { method: "POST" });
  const cells = [[check], [id, " ", region], [state], [band], [bar, success], [], [], [], [], [reset]].map((content, i) =>
    el("td", { role: "cell", class: i >= 5 && i <= 8 && "n" }, ...content),
  );
  const tr = el("tr", { role: "row" }, ...cells);
  let drawn, // version of the band
    described; // the id of the proxy that the titles describe

  // describe writes the titles. They wait for the pointer or the focus, since a change of a title costs a scroll much.
  function describe() {
    described = x.id;
    attribute(id, "title", x.url);
    attribute(state, "title", failures(x.breaker));
    for (const e of [bar, success])
      attribute(e, "title", x.failure?.reason || (x.samples ? percent(x.success_rate) + " of the last " + count(x.samples, "attempt") : "no attempts yet"));
  }
  for (const event of ["pointerover", "focusin"]) tr.addEventListener(event, describe);
  band.onmousemove = e => attribute(band, "title", periodAt(x, e.offsetX / band.clientWidth));

  function show(proxy) {
    x = proxy;
    const breaker = x.breaker,
      left = Math.ceil((breaker.dueAt - Date.now()) / 1000),
      wait = left > 0 ? " " + left + " s" : "",
      rate = perSecond(x.id, Date.now()),
      status = x.draining ? "draining" : x.banned_until ? "banned" : breaker.state;
    check.checked = selected.has(x.id);
    attribute(check, "aria-label", "select " + x.id);
    write(id, x.id);
    write(region, x.region);
    attribute(state, "class", "pill " + status);
    write(state, status.replace("_", "-") + wait);
    share.style.width = (x.samples ? 100 * x.success_rate : 0) + "%";
    bar.hidden = !!x.failure;
    attribute(success, "class", x.failure && "failure");
    write(success, x.failure ? x.failure.reason : x.samples ? percent(x.success_rate) : "–");
    write(cells[5], x.avg_latency ? span(x.avg_latency) : "–");
    write(cells[6], number.format(x.in_flight));
    write(cells[7], rate ? rate.toFixed(1) : "–");
    write(cells[8], number.format(x.uses));
    if (described === x.id) describe();
    else if (described) {
      described = "";
      for (const e of [id, state, bar, success, band]) e.removeAttribute("title");
    }
    const version = x.id + " " + breaker.state + (transitions.get(x.id)?.length ?? 0) + Math.floor(Date.now() / 4000);
    if (drawn === version) return; // a band moves by less than a pixel in four seconds
    drawn = version;
    drawBand(band, periods(x, gatewayNow()));
  }
  return { tr, show };
}

const failures = b =>
  b.failure_count === undefined
    ? ""
    : `${b.failure_count} failures within ${b.window_duration} s; the threshold is ${b.failure_threshold}`;

// periods returns the states of a proxy's breaker over the last minutes, oldest first.
function periods(x, now) {
  const past = transitions.get(x.id) || [],
    out = [];
  let start = Math.max(now - bandSeconds * 1000, began()),
    state = past.length ? past[0].from_state : x.breaker.state;
  for (const e of past) {
    const at = Date.parse(e.timestamp);
    if (at > start) {
      out.push({ state, from: start, to: at });
      start = at;
    }
    state = e.to_state;
  }
  out.push({ state: x.breaker.state, from: start, to: now });
  return out;
}

const colours = { closed: "var(--ok)", open: "var(--bad)", half_open: "var(--half)" };

// drawBand draws periods as a band of colours. A band is one element, because a list has many bands and must scroll fast.
// Each period is at least a pixel wide; if there are too many periods, the earliest ones are left out.
function drawBand(band, list) {
  const now = list.at(-1).to,
    stops = [];
  let from = bandWidth;
  for (const p of list.toReversed()) {
    const to = from;
    from = Math.max(0, Math.min(to - 1, Math.round(bandWidth * (1 - (now - p.from) / (bandSeconds * 1000)))));
    stops.unshift(`${colours[p.state]} ${from}px ${to}px`);
  }
  const image = `linear-gradient(90deg, transparent ${from}px, ${stops.join(", ")})`;
  if (band.dataset.image !== image) band.style.backgroundImage = band.dataset.image = image;
  attribute(band, "aria-label", "open " + list.filter(p => p.state === "open").length + " times in the last 10 minutes");
}

// periodAt describes the period at a place of a band, 0 to 1.
function periodAt(x, place) {
  const now = gatewayNow(),
    at = now - (1 - place) * bandSeconds * 1000,
    p = periods(x, now).find(p => p.from <= at && at <= p.to);
  return p ? p.state + " from " + clock(p.from) + " to " + clock(p.to) : "";
}

// --- Searching and sorting --------------------------------------------

function applyFilter() {
  clearSelection(); // no action on proxies that are not shown
  list.clear();
  document.dispatchEvent(new Event("filter"));
  round();
}

// filterBy replaces some conditions of the filter and shows the list.
export function filterBy(values) {
  address.set(values);
  showFilter();
  applyFilter();
  filter.scrollIntoView({ block: "start" });
}

// showFilter writes the filter of the URL into the form.
function showFilter() {
  for (const name of conditions) filter.elements[name].value = address.get(name);
}
showFilter();

let typing;
for (const name of conditions) {
  filter.elements[name].oninput = () => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      address.set(Object.fromEntries(conditions.map(n => [n, filter.elements[n].value.trim()])));
      applyFilter();
    }, 200);
  };
}
$("clear").onclick = () => filterBy(Object.fromEntries(conditions.map(n => [n, ""])));
filter.onsubmit = e => e.preventDefault();

for (const b of document.querySelectorAll("th button[value]")) {
  b.onclick = () => {
    const now = address.get("sort");
    address.set({ sort: now === b.value ? "-" + b.value : now === "-" + b.value ? "" : b.value });
    showOrder();
    applyFilter();
  };
}

function showOrder() {
  const sort = address.get("sort");
  for (const b of document.querySelectorAll("th button[value]")) {
    const order = sort === b.value ? "ascending" : sort === "-" + b.value ? "descending" : "none";
    b.parentElement.setAttribute("aria-sort", order);
  }
}
showOrder();

// --- Many proxies at once ---------------------------------------------------------

function showSelection() {
  $("selection").hidden = selected.size === 0;
  write($("selected"), number.format(selected.size) + " selected");
  $("selectall").hidden = selected.size >= total;
  write($("selectall"), "select all " + number.format(total));
}

// allMatching calls onPage with each page of the proxies that match the filter.
export async function allMatching(onPage) {
  const p = query();
  p.set("sort", p.get("sort") || "id");
  p.set("limit", 1000);
  for (let cursor = ""; cursor !== null; ) {
    if (cursor) p.set("cursor", cursor);
    const page = await api("proxies?" + p);
    onPage(page.proxies);
    cursor = page.next_cursor;
  }
}

$("selectall").onclick = async () => {
  try {
    await allMatching(page => page.forEach(x => selected.add(x.id)));
  } catch (e) {
    showError("select all: " + e.message);
  }
  list.update();
  showSelection();
};

function clearSelection() {
  selected.clear();
  list.update();
  showSelection();
}
$("selectnone").onclick = clearSelection;

for (const b of $("selection").querySelectorAll("button[value]")) {
  b.onclick = async () => {
    if (await perform(b.value, [...selected], text => ($("selected").textContent = text))) clearSelection();
  };
}
