// Actions on many proxies, and how each is undone.
import { api, showError } from "./api.js";
import { number } from "./dom.js";
import { refresh } from "./live.js";
import { gatewayNow } from "./session.js";
import { offerUndo } from "./undo.js";

const atOnce = 6; // requests in flight

// The function each calls request for every id, several at a time, and shows the progress. It returns the ids for which
// the request succeeded (done), the results of these requests, and the errors of all other requests (faults).
export async function each(ids, request, progress = () => {}) {
  const done = [],
    results = [],
    faults = [];
  let next = 0;
  const work = async () => {
    while (next < ids.length) {
      const id = ids[next++];
      progress(number.format(next) + " of " + number.format(ids.length));
      try {
        results.push(await request(id));
        done.push(id);
      } catch (e) {
        faults.push(id + ": " + e.message);
      }
    }
  };
  await Promise.all(Array.from({ length: atOnce }, work));
  return { done, results, faults };
}

const proxy = id => "proxies/" + encodeURIComponent(id);
const restore = id => api(proxy(id) + "/restore", { method: "POST" });
const post = json => ({ method: "POST", json });

// bansNow returns the end of the ban of each banned proxy, in ms.
async function bansNow() {
  const bans = new Map();
  const p = new URLSearchParams({ state: "banned", sort: "id", limit: 1000 });
  for (let cursor = ""; cursor !== null; ) {
    if (cursor) p.set("cursor", cursor);
    const page = await api("proxies?" + p);
    for (const x of page.proxies) bans.set(x.id, Date.parse(x.banned_until));
    cursor = page.next_cursor;
  }
  return bans;
}

// banBefore restores the ban that a proxy had before a change. The parameter bans has the end of this ban; if the proxy
// had no ban, it gets none.
async function banBefore(id, bans) {
  await api(proxy(id) + "/ban", { method: "DELETE" }).catch(() => {}); // the ban may have ended
  const left = Math.floor((bans.get(id) - gatewayNow()) / 1000);
  if (left >= 1) await api(proxy(id) + "/ban", post({ for: left + "s" }));
}

// The field ask of an action is the question to the user; an action that changes nothing has none. The function request
// makes the request for one proxy. The function done returns the message for the end; its arguments are the proxies as
// text and the results of the requests. The function before is called before the first request. The function undo
// undoes the action for one proxy, and gets the result of before. The reset of a breaker cannot be undone: the breaker
// opens again if its proxy still fails.
const actions = {
  test: {
    done: (n, tests) =>
      tests.every(t => t.kind === "connection")
        ? n + " reachable; without health.url, no request was sent"
        : n + " passed the test",
    request: async id => {
      const t = await api(proxy(id) + "/test", { method: "POST" });
      if (!t.passed) throw new Error(t.error);
      return t;
    },
  },
  reset: {
    ask: "Reset the breakers of",
    done: n => "breakers reset: " + n + "; those of proxies that still fail open again",
    request: id => api("circuit-breakers/" + encodeURIComponent(id) + "/reset", { method: "POST" }),
  },
  ban: {
    ask: "Ban for an hour",
    done: n => n + " banned for an hour",
    before: bansNow,
    request: id => api(proxy(id) + "/ban", post({ for: "1h" })),
    undo: banBefore,
  },
  unban: {
    ask: "End the bans of",
    done: n => "bans ended: " + n,
    before: bansNow,
    request: id => api(proxy(id) + "/ban", { method: "DELETE" }),
    undo: banBefore,
  },
  drain: {
    ask: "Remove, when their attempts have ended,",
    done: n => n + " removed, when their attempts have ended",
    request: id => api(proxy(id) + "?drain=true", { method: "DELETE" }),
    undo: restore,
  },
  delete: {
    ask: "Remove at once",
    done: n => n + " removed",
    request: id => api(proxy(id), { method: "DELETE" }),
    undo: restore,
  },
};

const proxies = n => number.format(n) + (n === 1 ? " proxy" : " proxies");

// perform asks the user, makes the requests of an action for all ids, and offers to undo the action. It returns false
// if the user has declined.
export async function perform(name, ids, progress) {
  const a = actions[name];
  if (a.ask && !confirm(a.ask + " " + (ids.length === 1 ? ids[0] : proxies(ids.length)) + "?")) return false;
  try {
    const before = a.before && (await a.before());
    const { done, results, faults } = await each(ids, a.request, text => progress?.(name + ": " + text));
    showError((faults.length && ids.length > 1 ? number.format(faults.length) + " failed; " : "") + (faults[0] || ""));
    const undo = async show => {
      const undone = await each(done, id => a.undo(id, before), show);
      refresh();
      if (undone.faults.length) throw new Error(undone.faults.length + " failed; " + undone.faults[0]);
      return proxies(undone.done.length) +
        (a.undo === restore ? " in the pool again, with new statistics" : " as before");
    };
    const n = done.length === 1 ? done[0] : proxies(done.length);
    if (done.length) offerUndo(a.done(n, results), a.undo && undo);
  } catch (e) {
    showError(name + ": " + e.message);
  }
  refresh();
  return true;
}
