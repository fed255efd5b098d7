// The head of the page: version, the curl line, and faults of the configuration.
import { api } from "./api.js";
import { $ } from "./dom.js";
import { watch } from "./live.js";

watch({ views: ["config"], polled: 10000 }, async () => {
  const [h, c] = await Promise.all([api("healthz"), api("config")]);
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
});

$("copy").onclick = async () => {
  await navigator.clipboard.writeText($("curl").textContent);
  $("copy").textContent = "copied";
  setTimeout(() => {
    $("copy").textContent = "copy";
  }, 1500);
};
