// Fetches each URL six times by GET and by POST through the gateway: http:// URLs through a tunnel and in absolute form.
import assert from "node:assert";
import { ProxyAgent, fetch, request } from "undici";

const [gateway, ...urls] = process.argv.slice(2);
for (const proxyTunnel of [true, false]) {
  const dispatcher = new ProxyAgent({ uri: `http://${gateway}`, proxyTunnel });
  for (const url of urls) {
    for (let i = 0; i < 6; i++) {
      let r = await fetch(url, { dispatcher });
      let text = await r.text();
      assert(r.status === 200 && text.includes(" GET "), `${url} ${r.status} ${text}`);
      const headers = { "X-Whirlpool-Retry": "retry_non_idempotent=true" }; // ProxyAgent adds a host to the object
      r = await request(url, { dispatcher, method: "POST", body: "the body", headers });
      text = await r.body.text();
      assert(r.statusCode === 200 && text.endsWith("POST the body"), `${url} ${r.statusCode} ${text}`);
    }
  }
  await dispatcher.close();
}
console.log("ok");
