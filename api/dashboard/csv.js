// Import and export of proxies.
import { api, showError } from "./api.js";
import { $, el, number } from "./dom.js";
import { refresh } from "./live.js";
import { allMatching } from "./proxies.js";
import { each } from "./many.js";
import { offerUndo } from "./undo.js";

$("add").onsubmit = async e => {
  e.preventDefault();
  const f = e.target,
    status = f.querySelector("[role=status]");
  try {
    const answer = await api("proxies", { method: "POST", body: linesOf(f.elements.lines.value), type: "text/plain" });
    const ids = (answer.proxies || [answer]).map(x => x.id);
    status.textContent = "";
    offerUndo(number.format(ids.length) + " added", async progress => {
      await each(ids, id => api("proxies/" + encodeURIComponent(id), { method: "DELETE" }), progress);
      refresh();
      return number.format(ids.length) + " removed again";
    });
    f.reset();
    refresh();
  } catch (error) {
    status.textContent = error.message;
  }
};

const columns = ["id", "url", "region", "vendor", "weight", "cost", "state", "draining", "success_rate", "samples", "avg_latency",
  "uses", "exit_address"];
const usual = { weight: "1", cost: "0", max_in_flight: "0", reuse: "true" }; // settings that a line need not have

// field returns a value as a field of a CSV file (RFC 4180). A spreadsheet would take a text as a formula if it begins
// with one of = + - @ TAB CR. An apostrophe before the text prevents this (OWASP, CSV Injection).
export function field(value) {
  let text = String(value);
  if (typeof value !== "number" && /^[=+\-@\t\r]/.test(text)) text = "'" + text;
  return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
}

// line returns a proxy as a line of a proxy list. The API hides credentials: such a proxy is a comment.
export function line(x) {
  const options = new URLSearchParams(),
    settings = { id: x.id, ...x.metadata };
  for (const name of ["region", "vendor", ...Object.keys(usual)]) settings[name] = x[name];
  for (const [name, value] of Object.entries(settings)) {
    if (value !== undefined && value !== "" && String(value) !== usual[name]) options.set(name, value);
  }
  return (x.url.includes("***@") ? "# its credentials are hidden: " : "") + x.url + "#" + options;
}

// linesOf returns the lines of a text. If it is a table with a header line (CSV) that has a column url, its rows become
// lines. The columns of an export that are no settings are left out.
export function linesOf(text) {
  const [header, ...rows] = records(text);
  if (!header?.includes("url")) return text;
  return rows
    .map(row => {
      const x = Object.fromEntries(header.map((name, i) => [name, (row[i] ?? "").replace(/^'(?=[=+\-@\t\r])/, "")]));
      const settings = ["id", "region", "vendor", "weight", "cost"].filter(name => x[name]).map(name => [name, x[name]]);
      return x.url + "#" + new URLSearchParams(settings);
    })
    .join("\n");
}

// records returns the records of a CSV text (RFC 4180), without the empty ones.
function records(text) {
  const out = [[]];
  for (const [, quoted, plain, end] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^,\r\n]*))(,|\r?\n|$)/g)) {
    out.at(-1).push(quoted?.replaceAll('""', '"') ?? plain.trim());
    if (end !== ",") out.push([]);
  }
  return out.filter(record => record.some(Boolean));
}

// download lets the user save all proxies that match the filter, as lines of a file.
async function download(name, type, first, lineOf) {
  const lines = [...first];
  try {
    await allMatching(page => lines.push(...page.map(lineOf)));
  } catch (e) {
    return showError("export: " + e.message);
  }
  const file = URL.createObjectURL(new Blob([lines.join("\r\n") + "\r\n"], { type }));
  el("a", { href: file, download: name }).click();
  URL.revokeObjectURL(file);
}

$("export").onclick = () =>
  download("proxies.csv", "text/csv", [columns.join()], x => columns.map(c => field(x[c] ?? "")).join());
$("exportlist").onclick = () => download("proxies.txt", "text/plain", [], line);
