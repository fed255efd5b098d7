// The dashboard polls the REST API and draws the responses.
"use strict";

const $ = id => document.getElementById(id);
const state = {
  key: sessionStorage.getItem("key") || "",
  filter: "retried",
  began: Infinity,
  transitions: new Map(),
  backoffs: [],
  clockOffset: 0,
  edited: false,
};

// --- The API ---------------------------------------------------------------

// A request fails after this many milliseconds: the gateway may be unreachable, or this
// machine may have slept.
const requestTimeout = 30000;

async function api(path, { method = "GET", json, body } = {}) {
  const headers = {},
    key = state.key;
  if (key) headers.Authorization = "Bearer " + key;
  if (json !== undefined) headers["Content-Type"] = "application/json";
  const signal = method === "GET" ? AbortSignal.timeout(requestTimeout) : undefined; // an upload may take longer
  const response = await fetch("api/v1/" + path, {
    method,
    headers,
    signal,
    body: json === undefined ? body : JSON.stringify(json),
  });
  const offset = Date.parse(response.headers.get("Date")) - Date.now();
  state.clockOffset = Math.abs(offset) > 2000 ? offset : 0; // Date has whole seconds
  if (response.ok) return response.status === 204 ? null : response.json();
  if (response.status === 401) {
    if (key === state.key) askForKey(true); // else the user has entered another key meanwhile
    throw new Error("the API does not accept this key");
  }
  throw new Error(
    (await response.json().catch(() => ({}))).message || "the API responded with status " + response.status,
  );
}

// gatewayNow is the time of the gateway's clock, which may differ from this machine's.
const gatewayNow = () => Date.now() + state.clockOffset;

// askForKey shows the form for the key and hides everything else, or the reverse.
function askForKey(on) {
  if (on && $("login").hidden) setTimeout(() => $("login").elements.key.focus());
  $("login").hidden = !on;
  document.querySelector("main").hidden = on;
  if (on) showConnection("signed out");
}

const rounds = [];

// poll requests the paths every ms milliseconds and calls update with the responses. It
// pauses while the page is hidden or needs a key. update may return another interval.
function poll(ms, paths, update) {
  let timer,
    busy = false;
  const round = async () => {
    if (busy) return;
    busy = true;
    clearTimeout(timer);
    let wait = ms;
    if (!document.hidden && $("login").hidden) {
      try {
        wait = update(...(await Promise.all(paths().map(p => api(p))))) || ms;
        showConnection("");
      } catch (e) {
        if ($("login").hidden)
          showConnection(
            e instanceof TypeError || e.name === "TimeoutError" ? "the gateway does not respond" : e.message,
          );
      }
    }
    timer = setTimeout(round, wait);
    busy = false;
  };
  rounds.push(round);
  round();
}

// showConnection shows whether the page is up to date; problem is "" if it is.
function showConnection(problem) {
  if (!problem) state.updated = Date.now();
  const text = !problem ? "live" : problem + (state.updated ? "; this page is from " + clock(state.updated) : "");
  document.querySelector("main").classList.toggle("stale", problem !== "");
  $("link").className = "link " + (problem ? "down" : "live");
  if ($("link").textContent !== text) $("link").textContent = text;
}

// refresh polls everything now.
function refresh() {
  for (const round of rounds) round();
}

// act makes the request of a button and shows its error, if any.
async function act(button, path, options) {
  button.disabled = true;
  try {
    await api(path, options);
    showError("");
  } catch (e) {
    showError(button.textContent + ": " + e.message);
  }
  button.disabled = false;
  refresh();
}

function showError(text) {
  $("alert").textContent = text;
  $("alert").hidden = !text;
}

$("login").onsubmit = async e => {
  e.preventDefault();
  state.key = e.target.elements.key.value;
  const status = e.target.querySelector("[role=alert]");
  try {
    await api("retry/policy");
    sessionStorage.setItem("key", state.key);
    status.textContent = "";
    e.target.reset();
    askForKey(false);
    refresh();
  } catch (error) {
    status.textContent = error.message;
  }
};

// --- Drawing ---------------------------------------------------------------

function el(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "rect", "line", "circle", "text", "title"].includes(tag);
  const e = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") e.onclick = value;
    else if (value !== undefined && value !== false) e.setAttribute(name, value);
  }
  e.append(...children);
  return e;
}

// button makes a request when it is clicked, after the user has confirmed the question, if
// there is one.
function button(text, path, options, question) {
  const clicked = e => {
    if (!question || confirm(question)) act(e.target, path, options);
  };
  return el("button", { type: "button", onclick: clicked }, text);
}

// pill is a coloured state.
function pill(state, text = state.replace("_", "-"), title = undefined) {
  return el("span", { class: "pill " + state, title }, text);
}

// cell replaces the content of a table cell if its version differs. Otherwise the elements
// stay, with focus and selection.
function cell(td, content, version = content) {
  version = String(version);
  if (td.dataset.version === version) return;
  td.dataset.version = version;
  td.replaceChildren(...[content].flat());
}

// rows updates a table's body to one row for each item, in order. key identifies a row;
// cellsOf returns the contents of its cells, each with its version if it has one.
function rows(body, items, key, cellsOf) {
  const old = new Map([...body.rows].map(tr => [tr.dataset.key, tr]));
  let at = body.firstElementChild;
  for (const item of items) {
    const k = key(item);
    let tr = old.get(k);
    old.delete(k);
    if (!tr) {
      tr = el("tr");
      tr.dataset.key = k;
    }
    cellsOf(item, tr).forEach((c, i) => {
      const td = tr.cells[i] || tr.appendChild(el("td"));
      Array.isArray(c) ? cell(td, c[0], c[1]) : cell(td, c);
    });
    if (tr === at) at = at.nextElementSibling;
    else body.insertBefore(tr, at);
  }
  for (const tr of old.values()) tr.remove();
}

const number = new Intl.NumberFormat("en");
const percent = part => (100 * part).toFixed(part > 0.9995 || part === 0 ? 0 : 1) + " %";
const clock = time => new Date(time).toLocaleTimeString([], { hour12: false });

function span(seconds) {
  if (seconds < 0.001) return Math.round(seconds * 1e6) + " µs";
  if (seconds < 1) return (seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0) + " ms";
  const whole = Math.round(seconds);
  return whole < 60
    ? +seconds.toFixed(seconds < 10 ? 2 : 1) + " s"
    : Math.floor(whole / 60) + " min " + (whole % 60) + " s";
}

// --- Totals and the chart ---------------------------------------------------

const chartSeconds = 120;
let before,
  samples = [];

// The requests by their outcome: successful at the first attempt, successful after a
// retry, failed.
const kinds = { first: "successful at the first attempt", retried: "successful after a retry", failed: "failed" };

// counts returns the number of requests of each kind since the start.
function counts(summary) {
  const by = summary.success_by_attempt,
    first = by["0"] || 0;
  const ok = Object.values(by).reduce((a, b) => a + b, 0);
  return { first, retried: ok - first, failed: summary.total_requests - ok };
}

poll(
  1000,
  () => ["metrics/retries"],
  m => {
    const now = Date.now(),
      c = counts(m),
      ok = c.first + c.retried;
    if (before && now - before.at < 5000 && m.total_requests >= before.total) {
      const per = 1000 / (now - before.at);
      samples.push({ at: now, ...Object.fromEntries(Object.keys(kinds).map(k => [k, (c[k] - before[k]) * per])) });
    }
    before = { ...c, at: now, total: m.total_requests };
    samples = samples.filter(s => s.at > now - chartSeconds * 1000);
    const last = samples[samples.length - 1];
    tiles("requests", [
      [last ? number.format(Math.round(total(last))) : "–", "requests per second", ""],
      [number.format(m.total_requests), "requests", number.format(m.total_attempts) + " attempts"],
      [
        m.total_requests ? percent((ok - m.target_refused) / m.total_requests) : "–",
        "successful",
        number.format(c.failed) + " failed, " + number.format(m.target_refused) + " refused by the target (403, 429)",
        m.target_refused > ok / 2,
      ],
      [
        number.format(c.retried),
        "successful after a retry",
        number.format(m.total_retries) + " retries, " + span(m.retry_latency_seconds_total) + " of backoff",
      ],
    ]);
    draw(now);
  },
);

const total = sample => Object.keys(kinds).reduce((sum, k) => sum + sample[k], 0);

// tiles shows the tiles of a group: [value, name, more, alarm]. With alarm the value is red.
function tiles(group, list) {
  const old = [...$("tiles").querySelectorAll("." + group)];
  list.forEach(([value, name, more, alarm], i) => {
    const tile =
      old[i] || $("tiles").appendChild(el("div", { class: "tile " + group }, el("b"), el("span"), el("small")));
    [value, name, more].forEach((text, n) => {
      if (tile.children[n].textContent !== text) tile.children[n].textContent = text;
    });
    tile.classList.toggle("alarm", !!alarm);
  });
}

// ceiling returns the smallest of 1, 2, 5, 10, 20, ... that is at least n.
function ceiling(n) {
  const ten = 10 ** Math.floor(Math.log10(Math.max(n, 1)));
  return [1, 2, 5, 10].map(f => f * ten).find(x => x >= n);
}

function draw(now) {
  const svg = $("chart"),
    width = svg.clientWidth || 800,
    height = 150,
    left = 38,
    bottom = 18,
    top = 8;
  const high = height - bottom - top,
    most = ceiling(Math.max(1, ...samples.map(total)));
  const y = n => top + high * (1 - n / most),
    x = at => width - ((now - at) / (chartSeconds * 1000)) * (width - left);
  const lines = [0, 0.5, 1].flatMap(part => [
    el("line", { x1: left, x2: width, y1: y(part * most), y2: y(part * most) }),
    el("text", { x: left - 6, y: y(part * most) + 4, "text-anchor": "end" }, number.format(part * most)),
  ]);
  const label = (x, anchor, text) => el("text", { x, y: height - 4, "text-anchor": anchor }, text);
  const times = [90, 60, 30].map(s => label(x(now - s * 1000), "middle", "−" + s + " s"));
  times.push(label(left + 2, "start", "−" + chartSeconds + " s"));
  times.push(label(width, "end", "now"));
  const wide = Math.max(1, (width - left) / chartSeconds - 1);
  const bars = samples.map(s => {
    const title = Object.entries(kinds)
      .map(([k, text]) => Math.round(s[k]) + " " + text)
      .join(", ");
    const g = el("g", {}, el("title", {}, clock(s.at) + ": " + title));
    let sum = 0;
    for (const kind of Object.keys(kinds)) {
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
  svg.replaceChildren(...lines, ...times, ...bars);
}

// --- Proxies and their breakers ----------------------------------------------

const bandSeconds = 600,
  mostRows = 200;
const emptyPool =
  "The pool is empty: add proxies with serve --proxies FILE, [[proxies]] in koanf.toml or POST /api/v1/proxies";
let uses = new Map(); // of each proxy that is shown: [time, uses] over the last minute

poll(
  1000,
  () => ["proxies", "circuit-breakers"],
  (p, b) => {
    const breakers = Object.fromEntries(b.circuit_breakers.map(x => [x.proxy_id, x]));
    const closed = x => (breakers[x.id]?.state ?? x.state) === "closed";
    for (const x of b.circuit_breakers) state.began = Math.min(state.began, Date.parse(x.last_state_change));
    // Of a large pool only some proxies are shown: those whose breaker is not closed first.
    const pool =
      p.proxies.length > mostRows ? p.proxies.filter(x => !closed(x)).concat(p.proxies.filter(closed)) : p.proxies;
    const shown = pool.slice(0, mostRows),
      now = Date.now();
    let all = 0;
    const share = new Map(),
      current = new Map();
    for (const x of shown) {
      const past = (uses.get(x.id) || []).filter(([at, n]) => at > now - 60000 && n <= x.uses);
      past.push([now, x.uses]);
      current.set(x.id, past);
      share.set(x.id, x.uses - past[0][1]);
      all += share.get(x.id);
    }
    uses = current;
    rows(
      $("proxies"),
      shown,
      x => x.id,
      x => {
        const breaker = breakers[x.id] || { state: x.state };
        const wait = breaker.retry_in_seconds != null ? " " + Math.ceil(breaker.retry_in_seconds) + " s" : "";
        const status = x.draining ? "draining" : breaker.state;
        return [
          [[x.id + " ", el("small", {}, x.region)], x.id + x.region],
          [pill(status, status.replace("_", "-") + wait, failures(breaker)), status + wait + breaker.failure_count],
          [band(x.id, breaker.state, gatewayNow()), now],
          [
            [bar(x.success_rate, x.samples), x.samples ? percent(x.success_rate) : "–"],
            x.samples + " " + x.success_rate,
          ],
          right(x.avg_latency ? span(x.avg_latency) : "–"),
          right(number.format(x.in_flight)),
          right(all ? percent(share.get(x.id) / all) : "–"),
          right(number.format(x.uses)),
          [button("reset", "circuit-breakers/" + encodeURIComponent(x.id) + "/reset", { method: "POST" }), "reset"],
        ];
      },
    );
    $("more").textContent =
      pool.length > mostRows ? "and " + number.format(pool.length - mostRows) + " more" : pool.length ? "" : emptyPool;
    const inService = p.proxies.filter(closed).length,
      rest = p.proxies.length - inService;
    tiles("service", [
      [
        number.format(inService) + " of " + number.format(p.proxies.length),
        "breakers closed",
        number.format(rest) + " open or half-open",
      ],
    ]);
    return p.proxies.length > 2000 ? 10000 : 0;
  },
);

const failures = b =>
  `${b.failure_count} failures within ${b.window_duration} s; the threshold is ${b.failure_threshold}`;

const right = text => [el("div", { class: "n" }, text), text];

// bar draws the share of successful attempts among the last samples.
function bar(part, samples) {
  const b = el(
    "span",
    { class: "bar", title: samples ? percent(part) + " of the last " + samples + " attempts" : "no attempts yet" },
    el("i"),
  );
  b.firstChild.style.width = (samples ? 100 * part : 0) + "%";
  return b;
}

// periods returns the states of a breaker between two times, oldest first, from its
// transitions and its state now.
function periods(transitions, stateNow, from, to) {
  const list = [];
  let start = from,
    before = transitions.length ? transitions[0].from_state : stateNow;
  for (const e of transitions) {
    const at = Date.parse(e.timestamp);
    if (at > start) {
      list.push({ state: before, from: start, to: at });
      start = at;
    }
    before = e.to_state;
  }
  list.push({ state: stateNow, from: start, to });
  return list;
}

// band draws the states of a breaker over the last minutes.
function band(id, stateNow, now) {
  const from = now - bandSeconds * 1000,
    scale = 144 / (bandSeconds * 1000);
  const past = periods(state.transitions.get(id) || [], stateNow, Math.max(from, state.began), now);
  const label = "open " + past.filter(s => s.state === "open").length + " times in the last 10 minutes";
  const attributes = {
    class: "band",
    viewBox: "0 0 144 16",
    preserveAspectRatio: "none",
    role: "img",
    "aria-label": label,
  };
  const bars = past.map(s => {
    const title = el("title", {}, s.state + " from " + clock(s.from) + " to " + clock(s.to));
    return el(
      "rect",
      { class: s.state, x: (s.from - from) * scale, width: Math.max((s.to - s.from) * scale, 1), height: 16 },
      title,
    );
  });
  return el("svg", attributes, el("rect", { class: "none", width: 144, height: 16 }), ...bars);
}

poll(
  2000,
  () => ["circuit-breakers/metrics?hours=1"],
  m => {
    const from = gatewayNow() - bandSeconds * 1000;
    state.transitions = new Map();
    for (const e of m.events) {
      state.began = Math.min(state.began, Date.parse(e.timestamp));
      if (Date.parse(e.timestamp) <= from) continue;
      if (!state.transitions.has(e.proxy_id)) state.transitions.set(e.proxy_id, []);
      state.transitions.get(e.proxy_id).push(e);
    }
    const latest = m.events.slice(-12).reverse();
    rows(
      $("transitions"),
      latest,
      e => e.timestamp + e.proxy_id + e.to_state,
      e => [
        clock(e.timestamp),
        e.proxy_id,
        [[e.from_state + " → ", pill(e.to_state)], e.to_state],
        [el("span", { title: e.why }, e.reason.replace("_", " ") + (e.why ? ": " + e.why : "")), e.reason],
      ],
    );
    $("notransitions").hidden = latest.length > 0;
  },
);

// --- Requests -----------------------------------------------------------------

const keep = 1000,
  shownRequests = 15;
let requests = new Map();

const inFlight = r => r.state !== "done";
const filters = {
  all: () => true,
  retried: r => r.attempts.length > 1 || r.current_attempt > 0,
  failed: r => !inFlight(r) && r.outcome !== "success",
  inflight: inFlight,
};

poll(
  1000,
  () => ["requests?limit=200"],
  list => {
    for (const [id, r] of requests) if (inFlight(r)) requests.delete(id);
    for (const r of list.requests) requests.set(r.id, r);
    const sorted = [...requests.values()].sort((a, b) => b.started_at.localeCompare(a.started_at)).slice(0, keep);
    requests = new Map(sorted.map(r => [r.id, r]));
    showRequests();
  },
);

function showRequests() {
  const now = gatewayNow(),
    list = [...requests.values()].filter(filters[state.filter]).slice(0, shownRequests);
  rows(
    $("requests"),
    list,
    r => r.id,
    r => {
      const took = ((inFlight(r) ? now : Date.parse(r.finished_at)) - Date.parse(r.started_at)) / 1000;
      return [
        clock(r.started_at),
        [r.method + " " + r.host, r.id],
        [steps(r, now), inFlight(r) ? now : "done"],
        right(span(Math.max(took, 0))),
        [pill(colour(r), inFlight(r) ? r.state : String(r.status || r.outcome)), r.state + r.outcome],
      ];
    },
  );
  for (const tr of $("requests").rows) tr.cells[2].className = "steps";
  $("norequests").textContent = list.length ? "" : noRequests();
}

function noRequests() {
  if (!requests.size) return "no requests yet";
  const latest = "none of the latest " + requests.size;
  return { retried: latest + " needed a retry", failed: latest + " failed", inflight: "no request is in flight" }[
    state.filter
  ];
}

// colour returns the state whose colour a request gets.
function colour(r) {
  if (inFlight(r)) return "half_open";
  return { success: "closed", cancelled: "" }[r.outcome] ?? "open";
}

// steps draws the attempts of a request in order, with the backoffs between them.
function steps(r, now) {
  const list = [];
  r.attempts.forEach((a, i) => {
    const beside = a.hedge || (i > 0 && a.attempt === 0 && r.attempts[i - 1].hedge); // both were in flight
    const arrow = beside ? "∥ hedge" : "→ " + (a.delay_before ? span(a.delay_before) + " →" : "");
    if (i) list.push(el("span", { class: "gap" }, arrow));
    const result = a.status_code || (a.error_message || a.outcome).split(": ").pop();
    list.push(
      el(
        "span",
        { class: "step " + a.outcome, title: (a.error_message || a.outcome) + ", after " + span(a.latency) },
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
  return list.length
    ? list
    : [el("span", { class: "gap" }, r.outcome === "success" ? "" : (r.outcome || "").replaceAll("_", " "))];
}

for (const b of $("filter").children) {
  b.onclick = () => {
    state.filter = b.value;
    for (const other of $("filter").children) other.setAttribute("aria-pressed", other === b);
    showRequests();
  };
}

// --- The policy ---------------------------------------------------------------

poll(3000, () => ["retry/policy"], showPolicy);

function showPolicy(p) {
  $("source").textContent = p.source === "file" ? "from the configuration file" : "changed at run time";
  const statuses = p.retry_status_codes.length ? " and the statuses " + p.retry_status_codes.join(", ") : "";
  $("policy").textContent = [
    p.max_attempts === 1 ? "one attempt" : "up to " + p.max_attempts + " attempts",
    "connection errors" + statuses + " are retried" + (p.retry_non_idempotent ? ", for POST, PUT and PATCH too" : ""),
    "backoff: " +
      p.backoff_strategy +
      (p.jitter ? " with jitter" : "") +
      (p.failover_delay === null ? "" : "; before a failover " + span(p.failover_delay)),
    p.timeout === null ? "no total timeout" : "total timeout " + span(p.timeout),
    ...(p.hedge && p.hedge !== "off" ? ["hedge after " + (p.hedge === "p95" ? "the p95" : span(p.hedge))] : []),
  ].join(" · ");
  drawAttempts(p);
  if (!state.edited && !$("change").contains(document.activeElement)) fillPolicy(p);
}

// backoffs returns the delays between the attempts of a request that keeps failing, without
// jitter. They are null for a strategy that is not built in.
function backoffs(p) {
  const delay = {
    exponential: n => p.base_delay * p.multiplier ** n,
    linear: n => p.base_delay * (n + 1),
    fixed: () => p.base_delay,
  }[p.backoff_strategy];
  return Array.from(
    { length: p.max_attempts - 1 },
    (_, n) => p.failover_delay ?? (delay ? Math.min(delay(n), p.max_backoff_delay) : null),
  );
}

function drawAttempts(p) {
  const svg = $("attempts"),
    width = svg.clientWidth || 400,
    list = backoffs(p),
    margin = 14,
    known = list.every(w => w !== null);
  const sum = list.reduce((a, b) => a + b, 0);
  const parts = [];
  let x = margin;
  const room = width - 2 * margin,
    least = Math.min(40, room / Math.max(list.length, 1) / 2),
    flexible = room - least * list.length;
  for (let i = 0; i <= list.length; i++) {
    parts.push(el("circle", { cx: x, cy: 22, r: 6 }, el("title", {}, "attempt " + (i + 1))));
    parts.push(
      el(
        "text",
        {
          x,
          y: 44,
          "text-anchor": i === 0 ? "start" : i === list.length ? "end" : "middle",
          dx: i === 0 ? -6 : i === list.length ? 6 : 0,
        },
        i === 0 ? "attempt 1" : String(i + 1),
      ),
    );
    if (i === list.length) break;
    const step = least + (sum > 0 && known ? (flexible * list[i]) / sum : flexible / list.length);
    parts.push(el("line", { x1: x + 8, x2: x + step - 8, y1: 22, y2: 22 }));
    parts.push(el("text", { x: x + step / 2, y: 12, "text-anchor": "middle" }, known ? span(list[i]) : ""));
    x += step;
  }
  svg.replaceChildren(...parts);
}

function fillPolicy(p) {
  const f = $("change");
  const names = state.backoffs.includes(p.backoff_strategy) ? state.backoffs : [p.backoff_strategy, ...state.backoffs];
  if (f.elements.backoff_strategy.dataset.names !== names.join()) {
    f.elements.backoff_strategy.dataset.names = names.join();
    f.elements.backoff_strategy.replaceChildren(...names.map(n => el("option", {}, n)));
  }
  for (const input of f.elements) {
    if (!input.name) continue;
    if (input.type === "checkbox") input.checked = p[input.name];
    else input.value = Array.isArray(p[input.name]) ? p[input.name].join(", ") : (p[input.name] ?? "");
  }
}

// Changes in the form stay until they are applied or the form is closed. Not every browser
// gives the focus to a checkbox that is clicked, so the focus alone does not show them.
$("change").oninput = () => {
  state.edited = true;
};
$("change").parentElement.ontoggle = e => {
  state.edited &&= e.target.open;
};

$("change").onsubmit = async e => {
  e.preventDefault();
  const f = e.target,
    status = f.querySelector("[role=status]"),
    change = {};
  for (const input of f.elements) {
    if (!input.name) continue;
    if (input.type === "checkbox") change[input.name] = input.checked;
    else if (input.name === "retry_status_codes") change[input.name] = (input.value.match(/\d+/g) || []).map(Number);
    else if (input.type === "number") change[input.name] = input.value === "" ? null : Number(input.value);
    else change[input.name] = input.value;
  }
  try {
    const p = await api("retry/policy", { method: "PUT", json: change });
    status.textContent = "applied at " + clock(p.updated_at);
    state.edited = false;
    showPolicy(p);
  } catch (error) {
    status.textContent = error.message;
  }
};

// --- The head -------------------------------------------------------------------

poll(
  10000,
  () => ["healthz", "config"],
  (h, c) => {
    $("version").textContent = h.version;
    const faults = c.reload.faults.map(
      f => f.file + (f.line ? ":" + f.line : "") + ": " + (f.key ? f.key + ": " : "") + f.message,
    );
    const postponed = c.reload.restart;
    $("reload").textContent = faults.length
      ? "The configuration was not reloaded: " + faults.join("; ")
      : postponed.length
        ? "These changed keys take effect at the next start: " + postponed.join(", ")
        : "";
    $("reload").hidden = !$("reload").textContent;
    const [, host, port] = c.gateway.match(/^(.*):(\d+)$/),
      anyAddress = ["0.0.0.0", "[::]"].includes(host);
    $("curl").textContent =
      "curl -i -x http://" + (anyAddress ? location.hostname : host) + ":" + port + " http://example.com/";
    $("copy").hidden = !navigator.clipboard;
  },
);

$("copy").onclick = async () => {
  await navigator.clipboard.writeText($("curl").textContent);
  $("copy").textContent = "copied";
  setTimeout(() => {
    $("copy").textContent = "copy";
  }, 1500);
};
