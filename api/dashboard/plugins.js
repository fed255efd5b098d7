// The plugins: their table, their settings and log, and the form for uploads.
import { api, button } from "./api.js";
import { $, clock, el, number, percent, pill, right, rows } from "./dom.js";
import { refresh, watch } from "./live.js";
import { session } from "./session.js";

export let backoffNames = []; // names of the backoff plugins
let inUse = {}; // name of the plugin that is in use, by use

const pluginPath = name => "plugins/" + encodeURIComponent(name);

watch({ views: ["plugins"], shown: $("plugins") }, async () => {
  const list = await api("plugins");
  backoffNames = list.plugins.filter(x => x.kind === "backoff").map(x => x.name);
  inUse = Object.fromEntries(list.plugins.flatMap(x => x.used_for.map(use => [use, x.name])));
  const order = x => (x.used_for.length ? 0 : 2) + (x.source === "builtin" ? 1 : 0);
  rows(
    $("plugins"),
    list.plugins.sort((a, b) => order(a) - order(b) || a.name.localeCompare(b.name)),
    x => x.name,
    (x, tr) => {
      tr.className = x.used_for.length ? "" : "dim";
      const faults = x.faults ? x.faults + " (" + percent(x.faults / x.calls) + ")" : "–";
      return [
        x.name,
        x.kind,
        x.source,
        [pill(x.state, x.state, x.last_error || x.fetch?.error), x.state + x.last_error + x.fetch?.error],
        x.used_for.join(", "),
        right(number.format(x.calls)),
        right(x.calls ? ((1e6 * x.spent_seconds) / x.calls).toFixed(2) + " µs" : "–"),
        [
          el(
            "div",
            {
              class: "n",
              title: Object.entries(x.faults_by_reason)
                .map(([r, n]) => r + ": " + n)
                .join("\n"),
            },
            faults,
          ),
          faults,
        ],
        [pluginButtons(x), [x.state, x.used_for, Object.values(inUse), x.quarantined, x.can_roll_back, x.hides_upload, x.source].join()],
      ];
    },
  );
  showDetails(list.plugins.find(x => x.name === details.name));
});

function pluginButtons(x) {
  const list = [],
    path = pluginPath(x.name);
  for (const use of { scorer: ["first", "retry"], backoff: ["backoff"], judge: ["judge"] }[x.kind] ?? []) {
    if (x.state !== "failed" && !x.used_for.includes(use))
      list.push(activation(x.name, use));
  }
  if (x.quarantined) list.push(button("release", path + "/release", { method: "POST" }));
  if (x.can_roll_back) list.push(button("roll back", path + "/rollback", { method: "POST" }));
  if (x.source === "api" && !x.used_for.length)
    list.push(button("delete", path, { method: "DELETE" }, { question: "Delete the upload " + x.name + "?" }));
  if (x.hides_upload)
    list.push(button("delete the hidden upload", path, { method: "DELETE" }, { question: "Delete the upload " + x.name + "?" }));
  list.push(el("button", { type: "button", onclick: () => openDetails(x.name) }, "details"));
  return list;
}

// activation is the button that uses a plugin. If the user undoes this, the plugin that was in use before is used
// again.
function activation(name, use) {
  const request = plugin => [pluginPath(plugin) + "/activate", { method: "POST", json: { for: use } }];
  const done = { text: name + " is used for " + use, undo: inUse[use] && request(inUse[use]) };
  return button("use for " + use, ...request(name), { done });
}

// The name of the file is the name of the plugin, unless the user has written another one.
$("upload").elements.module.onchange = e => {
  const name = $("upload").elements.name;
  if (!name.value) name.value = e.target.files[0]?.name.replace(/\.wasm$/, "").toLowerCase().replace(/[^a-z0-9_-]/g, "_") ?? "";
};

$("upload").onsubmit = async e => {
  e.preventDefault();
  const f = e.target,
    name = f.elements.name.value,
    status = f.querySelector("[role=status]"),
    body = new FormData();
  status.textContent = "compiling …";
  try {
    const exists = (await api("plugins")).plugins.some(x => x.name === name);
    body.append("module", f.elements.module.files[0]);
    if (!exists) body.append("name", name);
    const x = await api(exists ? pluginPath(name) : "plugins", {
      method: exists ? "PUT" : "POST",
      body,
    });
    status.textContent = x.name + " is loaded";
    f.reset();
    refresh();
  } catch (error) {
    status.textContent = error.message;
  }
};

// --- The details of one plugin: its settings and its log -----------------------

const details = { name: "" }; // of the plugin that is shown; "" for none

function openDetails(name) {
  details.name = details.name === name ? "" : name;
  details.settings = undefined;
  refresh();
}

// showDetails updates the details of the plugin x. It hides them if x is undefined.
function showDetails(x) {
  $("details").hidden = !x;
  if (!x) return;
  $("details").querySelector("h3").textContent = x.name;
  const version = JSON.stringify([session.role, x.source, x.settings]);
  if (details.settings !== version) {
    details.settings = version;
    fillSettings(x);
  }
  api(pluginPath(x.name) + "/logs").then(showLog, e => showLog({ lines: [] }, e.message));
}

function showLog(log, problem = "this plugin has logged nothing") {
  const lines = log.lines.map(l => clock(l.at) + " " + l.level.padEnd(5) + " " + l.text);
  const text = lines.join("\n") || problem;
  const box = $("log");
  if (box.textContent === text) return;
  const atEnd = box.scrollTop + box.clientHeight >= box.scrollHeight - 4;
  box.textContent = text;
  if (atEnd) box.scrollTop = box.scrollHeight;
}

// fillSettings fills the form with the settings that a plugin declares. The settings can be changed only if the plugin
// was uploaded, and only with a key of the role "admin".
function fillSettings(x) {
  const f = $("settings"),
    settings = x.settings || [],
    inFile = x.source !== "api",
    fixed = inFile || session.role !== "admin";
  f.hidden = settings.length === 0;
  f.querySelector("[role=status]").textContent = "";
  f.querySelector("button").hidden = inFile;
  f.querySelector("small").textContent = inFile ? "change them in [plugins." + x.name + ".config]" : "";
  f.querySelector("div").replaceChildren(
    ...settings.map(s => el("label", {}, s.name + " ", settingInput(s, fixed), el("small", {}, settingText(s)))),
  );
}

function settingInput(s, fixed) {
  const values = s.type === "boolean" ? ["true", "false"] : s.values;
  if (values) {
    const none = "default" + (s.default ? ": " + s.default : "");
    const options = values.map(v => el("option", { value: v, selected: v === s.value && "" }, v));
    return el("select", { name: s.name, disabled: fixed && "" }, el("option", { value: "" }, none), ...options);
  }
  const number = s.type !== "text";
  return el("input", {
    name: s.name,
    type: number ? "number" : "text",
    min: s.min,
    max: s.max,
    step: s.type === "integer" ? 1 : "any",
    value: s.value,
    placeholder: number ? s.default : "unchanged",
    disabled: fixed && "",
  });
}

// settingText is the range and the description of a setting.
function settingText(s) {
  const range = [s.min !== undefined && "at least " + s.min, s.max !== undefined && "at most " + s.max];
  return [s.type, ...range.filter(Boolean)].join(", ") + (s.text ? ": " + s.text : "");
}

$("settings").onsubmit = async e => {
  e.preventDefault();
  const f = e.target,
    status = f.querySelector("[role=status]"),
    config = {};
  for (const input of f.elements) {
    const initial = input.tagName === "SELECT" ? input.querySelector("[selected]")?.value || "" : input.defaultValue;
    if (!input.name || input.value === initial) continue;
    if (input.value === "") config[input.name] = null;
    else if (input.type === "number") config[input.name] = Number(input.value);
    else config[input.name] = input.value;
  }
  status.textContent = "checking …";
  try {
    await api(pluginPath(details.name), { method: "PATCH", json: { config } });
    details.settings = undefined;
    refresh();
  } catch (error) {
    status.textContent = error.message;
  }
};
