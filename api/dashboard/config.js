// The configuration in force, its errors, and the changes that the API has recorded.
import { act, api, button } from "./api.js";
import { $, clock, date, el, rows } from "./dom.js";
import { watch } from "./live.js";

const details = $("configuration");

const round = watch({ views: ["config"], polled: 10000, shown: details }, async () => {
  if (!details.open) return false;
  draw(...(await Promise.all([api("config"), api("state")])));
});
details.ontoggle = () => round();

function draw(c, s) {
  const r = c.reload;
  $("loaded").textContent =
    (r.ok ? "Loaded" : "The last reload failed") + " at " + clock(r.at) + (r.faults.length ? "; the configuration before it is in force:" : "");
  rows(
    $("faults"),
    r.faults,
    f => [f.file, f.line, f.key, f.message].join(),
    f => [f.file + (f.line ? ":" + f.line : ""), f.key || "", f.message],
  );
  showSections(c.config);
  $("notkept").textContent = !s.kept
    ? "Changes are not recorded, because [state] dir is not set: they end with the process."
    : s.changes.length
      ? "Recorded in " + s.dir + ":"
      : "none";
  rows(
    $("recorded"),
    s.changes,
    x => x.key,
    x => [x.key, x.change, date(x.at), x.in_force ? "" : "not in force", [forget(x), x.key]],
  );
}

// forget is the button that deletes the record of a change.
function forget(x) {
  const question = "Forget the recorded change " + x.key + "? It stays in force until the next start or reload.";
  return button("forget", "state?key=" + encodeURIComponent(x.key), { method: "DELETE" }, { question });
}

// showSections shows each section of the configuration, as far as its values are not empty.
function showSections(config) {
  const text = JSON.stringify(config);
  if ($("sections").dataset.text === text) return;
  $("sections").dataset.text = text;
  $("sections").replaceChildren(
    ...Object.entries(config).map(([name, value]) =>
      el("details", {}, el("summary", {}, name), el("pre", { tabindex: 0, "aria-label": name }, lines(name, value))),
    ),
  );
}

const lines = (name, value) =>
  Array.isArray(value) || typeof value !== "object" || value === null
    ? name + " = " + JSON.stringify(value, null, 1)
    : Object.entries(value)
        .map(([key, v]) => key + " = " + JSON.stringify(v))
        .join("\n");

$("readagain").onclick = e =>
  act(e.target, "config/reload", { method: "POST" }, { text: "The configuration was reloaded" });
