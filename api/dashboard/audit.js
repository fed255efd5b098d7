// The latest changes through the API: who changed what, when, and at which node of a cluster.
import { api } from "./api.js";
import { $, date, el, number, rows } from "./dom.js";
import { watch } from "./live.js";

const shown = 12;

watch({ views: ["audit"], polled: 10000 }, async () => {
  const { changes } = await api("audit?limit=" + shown);
  rows(
    $("audit"),
    changes,
    x => x.at + x.node + x.method + x.path,
    x => [date(x.at), x.node || "this gateway", x.key || "–", [what(x), x.at]],
  );
  $("audit").closest(".scroll").hidden = changes.length === 0;
  $("noaudit").hidden = changes.length > 0;
});

// what names the request and the things that it has changed.
function what(x) {
  const more = x.changed_total - x.changed.length,
    path = x.path.replace(/^\/api\/v1/, "") + (x.query ? "?" + x.query : "");
  return [
    el("code", {}, x.method + " " + path),
    x.changed.length ? " " + x.changed.join(", ") + (more ? " and " + number.format(more) + " more" : "") : "",
  ];
}
