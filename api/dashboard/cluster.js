// The nodes of the cluster: their states and their requests. The section is hidden without a cluster.
import { api } from "./api.js";
import { $, count, el, number, percent, pill, right, rows, span } from "./dom.js";
import { watch } from "./live.js";

const section = $("cluster").closest("section");
const pills = { live: "closed", isolated: "half_open", gone: "open" }; // the colour of a state

watch({ views: ["cluster"], every: 2000 }, async () => {
  const c = await api("cluster");
  section.hidden = !c.enabled;
  if (!c.enabled) return 60000;
  const [breakers, targets] = await Promise.all([api("cluster/breakers?limit=10"), api("cluster/targets?limit=10")]);
  const nodes = c.nodes || [];
  $("clustertext").textContent = text(c, nodes);
  $("clusterscope").textContent =
    "The summary above and all figures and lists below are of this gateway, " + c.node + "; of all nodes are the changes through the API.";
  rows(
    $("cluster"),
    nodes,
    n => n.node + " " + n.started,
    n => [
      n.self ? [[n.node + " ", el("small", {}, "this gateway")], n.node] : n.node,
      [pill(pills[n.state], n.state, titles[n.state]), n.state],
      n.version,
      n.address,
      right(number.format(n.requests.total)),
      right(n.requests.total ? percent((n.requests.delivered - n.requests.target_refused) / n.requests.total) : "–"),
      right(number.format(n.proxies.in_service) + " of " + number.format(n.proxies.total)),
      right(n.self ? "" : span(Math.max(0, n.seen)) + " ago"),
    ],
  );
  const failing = [...breakers.breakers.map(breakerRow), ...targets.targets.map(targetRow)];
  $("clusterrows").closest(".scroll").hidden = failing.length === 0;
  rows(
    $("clusterrows"),
    failing,
    r => r.key,
    r => r.cells,
  );
});

// breakerRow is the row of a breaker that is not closed on all nodes.
function breakerRow(b) {
  const nodes = b.nodes.map(n => n.node + (n.state === b.state ? "" : " (" + n.state.replace("_", " ") + ")")).join(", ");
  const where = b.cluster ? "open for the cluster" + (nodes ? ": " + nodes : "") : nodes;
  return {
    key: "proxy " + b.proxy_id,
    cells: [b.proxy_id, [pill(b.state, b.state.replace("_", " "), b.why), b.state], where],
  };
}

// targetRow is the row of a target with recent failures.
function targetRow(t) {
  const state = t.suspect ? "suspect" : "fails";
  const where = t.nodes.map(n => n.node + " (" + number.format(n.failures) + " of " + number.format(n.attempts) + ")");
  const shown = [pill(t.suspect ? "open" : "half_open", state), state];
  return { key: "target " + t.target, cells: [t.target, shown, where.join(", ")] };
}

const titles = {
  isolated: "It fails at proxies that serve the other nodes",
  gone: "It has left, or does not report any more",
};

// text is the state of the store and of the whole cluster in one line.
function text(c, nodes) {
  const r = c.requests,
    live = nodes.filter(n => n.state !== "gone").length;
  const store =
    c.store.state === "alone"
      ? "The store cannot be reached (" + c.store.error + "): this gateway is alone, and the table is old."
      : "All nodes in the last " + count(Math.round(r.window / 60), "minute") + ": " + count(r.total, "request") +
        (r.total ? ", " + percent((r.delivered - r.target_refused) / r.total) + " successful" : "") +
        ", " + count(r.attempts, "attempt") + ", " + count(r.retries, "retry", "retries") + ".";
  const twins = nodes.filter(n => n.same_name).map(n => n.node);
  const suspects = (c.suspect_targets || []).map(t => t.target);
  return [
    store,
    live + " of " + nodes.length + " nodes live,",
    ...[...new Set(twins)].map(
      name => twins.filter(n => n === name).length + " of them with the name " + name + " (set [cluster] node),",
    ),
    number.format(c.open_breakers) + (c.open_breakers === 1 ? " breaker" : " breakers") + " open for the cluster.",
    suspects.length ? "Suspect targets: " + suspects.slice(0, 5).join(", ") + (suspects.length > 5 ? " …" : "") : "",
  ].join(" ");
}
