// The retry policy: in words, as a drawing, and the form that changes it.
import { api } from "./api.js";
import { $, clock, count, el, number, span } from "./dom.js";
import { watch } from "./live.js";
import { backoffNames } from "./plugins.js";
import { offerUndo } from "./undo.js";

let edited = false, // the form has changes that are not applied
  current; // the policy in force

watch({ views: ["policy"], polled: 3000 }, async () => showPolicy(await api("retry/policy")));

// showPolicy shows the policy p, unless the form has changes that are not applied.
export function showPolicy(p) {
  current = p;
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
  if (!edited && !$("change").contains(document.activeElement)) fillPolicy(p);
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
  const names = backoffNames.includes(p.backoff_strategy) ? backoffNames : [p.backoff_strategy, ...backoffNames];
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

// Changes in the form stay until they are applied or the form is closed. Not every browser gives the focus to a
// checkbox that is clicked, so the focus alone does not show that there are changes.
$("change").oninput = () => {
  edited = true;
  hidePreview(); // of other values
};
$("change").parentElement.ontoggle = e => {
  edited &&= e.target.open;
  if (!edited) hidePreview();
};

// changeOf returns the policy of the form.
function changeOf(f) {
  const change = {};
  for (const input of f.elements) {
    if (!input.name) continue;
    if (input.type === "checkbox") change[input.name] = input.checked;
    else if (input.name === "retry_status_codes") change[input.name] = (input.value.match(/\d+/g) || []).map(Number);
    else if (input.type === "number") change[input.name] = input.value === "" ? null : Number(input.value);
    else change[input.name] = input.value;
  }
  return change;
}

// The form shows first what its policy would have meant in the last hour, then the button that applies the policy.
$("change").onsubmit = async e => {
  e.preventDefault();
  const status = e.target.querySelector("[role=status]"),
    change = changeOf(e.target);
  try {
    showPreview(await api("retry/policy/preview", { method: "POST", json: change }));
    previewed = change;
    status.textContent = "";
  } catch (error) {
    hidePreview();
    status.textContent = error.message;
  }
};

let previewed = null; // the policy whose preview is shown

function hidePreview() {
  previewed = null;
  $("preview").hidden = true;
}

const sentence = text => text[0].toUpperCase() + text.slice(1) + ".";

function showPreview(v) {
  const row = (name, c) =>
    el("tr", {}, el("th", { scope: "row" }, name), ...[c.attempts, c.served, c.refused, c.unknown].map(n => el("td", { class: "n" }, number.format(n))),
      el("td", { class: "n" }, span(c.waited)));
  const head = ["", "attempts", "served", "refused", "not known", "backoffs"].map(t => el("th", { class: "n" }, t || el("span", { class: "unseen" }, "policy")));
  const statuses = v.statuses.map(s =>
    count(s.attempts, "attempt") + " with status " + s.status + (s.retried ? " would be retried now" : " would no longer be retried"));
  const parts = [el("p", {}, sentence(v.summary))];
  if (v.examined) {
    const body = el("tbody", {}, row("as it was", v.recorded), row("with this policy", v.under_policy));
    const table = el("table", {}, el("thead", {}, el("tr", {}, ...head)), body);
    parts.push(el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "The latest requests" }, table));
  }
  parts.push(...[...statuses, ...v.untold].map(t => el("p", { class: "quiet" }, sentence(t))));
  $("previewtext").replaceChildren(...parts);
  $("preview").hidden = false;
}

$("apply").onclick = async () => {
  const status = $("change").querySelector("[role=status]"),
    undo = undoOf(current);
  try {
    const p = await api("retry/policy", { method: "PUT", json: previewed });
    status.textContent = "applied at " + clock(p.updated_at);
    offerUndo("The policy is applied", undo);
    hidePreview();
    edited = false;
    showPolicy(p);
  } catch (error) {
    status.textContent = error.message;
  }
};

// undoOf returns the function that goes back to the policy p.
function undoOf(p) {
  const { updated_at, source, ...fields } = p;
  return async () => {
    edited = false;
    showPolicy(await api("retry/policy", source === "file" ? { method: "DELETE" } : { method: "PUT", json: fields }));
    return "the former policy is in force again";
  };
}

$("restore").onclick = async () => {
  const status = $("change").querySelector("[role=status]"),
    undo = undoOf(current);
  try {
    showPolicy(await api("retry/policy", { method: "DELETE" }));
    offerUndo("The policy is that of the file", undo);
    hidePreview();
    status.textContent = "";
  } catch (error) {
    status.textContent = current.source === "file" ? "the policy is that of the file" : error.message;
  }
};
