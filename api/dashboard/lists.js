// Import and export of proxies. The gateway reads and writes the lists.
import { api, download, showError } from "./api.js";
import { $, el, number } from "./dom.js";
import { refresh } from "./live.js";
import { filterQuery } from "./proxies.js";
import { each } from "./many.js";
import { offerUndo } from "./undo.js";

const form = $("add"),
  status = form.querySelector("[role=status]");
let read = null; // the list whose reading is shown: its text and scheme

const proxies = n => number.format(n) + (n === 1 ? " proxy" : " proxies");

// send sends a list. With dry, the gateway only reads it.
const send = ({ text, scheme }, dry) =>
  api("proxy-lists?" + new URLSearchParams({ scheme, dry_run: dry }), { method: "POST", body: text, type: "text/plain" });

// The form shows first how the gateway reads the list, then the button that adds the proxies.
form.onsubmit = async e => {
  e.preventDefault();
  hideReading();
  const file = form.elements.file.files[0],
    list = { text: file ? await file.text() : form.elements.lines.value, scheme: form.elements.scheme.value };
  if (!list.text.trim()) return (status.textContent = "Write or paste a list, or choose a file.");
  status.textContent = "reading …";
  try {
    showReading(await send(list, true));
    read = list;
    status.textContent = "";
  } catch (error) {
    status.textContent = error.message;
  }
};
form.oninput = hideReading; // of another list

function hideReading() {
  read = null;
  $("reading").hidden = true;
  status.textContent = "";
}

const sum = counts => Object.values(counts).reduce((a, b) => a + b, 0);

function showReading(v) {
  const forms = Object.entries(v.forms).map(([form, n]) => number.format(n) + " as " + form),
    leftOut = sum(v.left_out);
  $("readingtext").textContent =
    (v.proxies ? proxies(v.proxies) + " can be added" : "No proxy can be added") +
    (leftOut ? "; " + number.format(leftOut) + (leftOut === 1 ? " entry is" : " entries are") + " left out" : "") +
    (forms.length ? ". Read: " + forms.join(", ") + "." : ".");
  const examples = v.examples.map(x => el("li", {}, el("code", {}, x)));
  if (v.proxies > v.examples.length) examples.push(el("li", {}, "and " + number.format(v.proxies - v.examples.length) + " more"));
  $("readingproxies").replaceChildren(...examples);
  $("readingwarnings").replaceChildren(...v.warnings.map(w => el("li", {}, place(w) + w.message)));
  $("addread").textContent = "add " + proxies(v.proxies);
  $("addread").hidden = !v.proxies;
  $("reading").hidden = false;
}

// place returns the lines of a warning.
function place({ lines, count }) {
  if (!lines.length) return count > 1 ? number.format(count) + " ×: " : "";
  const more = count > lines.length ? " and " + number.format(count - lines.length) + " more" : "";
  return (count === 1 ? "line " : "lines ") + lines.join(", ") + more + ": ";
}

$("addread").onclick = async () => {
  $("addread").disabled = true;
  try {
    const { ids } = await send(read, false);
    offerUndo(proxies(ids.length) + " added", async progress => {
      const undone = await each(ids, id => api("proxies/" + encodeURIComponent(id), { method: "DELETE" }), progress);
      refresh();
      if (undone.faults.length) throw new Error(number.format(undone.faults.length) + " failed; " + undone.faults[0]);
      return proxies(ids.length) + " removed again";
    });
    form.reset();
    hideReading();
    refresh();
  } catch (error) {
    status.textContent = error.message;
  }
  $("addread").disabled = false;
};

// save lets the user save all proxies that match the filter.
async function save(format, name) {
  const p = filterQuery();
  p.set("format", format);
  try {
    await download("proxy-lists?" + p, name);
    offerUndo("Users and passwords are not part of " + name);
  } catch (e) {
    showError("export: " + e.message);
  }
}

$("export").onclick = () => save("csv", "proxies.csv");
$("exportlist").onclick = () => save("list", "proxies.txt");
