// Import and export of proxies.
import { api, refresh, showError } from "./api.js";
import { $, el, number } from "./dom.js";
import { allMatching } from "./proxies.js";
import { each } from "./many.js";
import { offerUndo } from "./undo.js";

$("add").onsubmit = async e => {
  e.preventDefault();
  const f = e.target,
    status = f.querySelector("[role=status]");
  try {
    const answer = await api("proxies", { method: "POST", body: f.elements.lines.value, type: "text/plain" });
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

// field returns a value as a field of a CSV file (RFC 4180). A spreadsheet would take a text as a formula if it begins
// with one of = + - @ TAB CR. An apostrophe before the text prevents this (OWASP, CSV Injection).
export function field(value) {
  let text = String(value);
  if (typeof value !== "number" && /^[=+\-@\t\r]/.test(text)) text = "'" + text;
  return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
}

$("export").onclick = async () => {
  const lines = [columns.join()];
  try {
    await allMatching(list => list.forEach(x => lines.push(columns.map(c => field(x[c] ?? "")).join())));
  } catch (e) {
    return showError("export: " + e.message);
  }
  const file = URL.createObjectURL(new Blob([lines.join("\r\n") + "\r\n"], { type: "text/csv" }));
  el("a", { href: file, download: "proxies.csv" }).click();
  URL.revokeObjectURL(file);
};
