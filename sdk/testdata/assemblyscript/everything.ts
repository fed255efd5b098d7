// A scorer that uses every hook and every field, for the tests of the SDK. Each
// score is a sum: of each field times its index in its record.
import {
  Candidates, Observation, Proxies, RankRequest, Scores, Settings,
  hash53, pair53, proxyID, proxyMetadata, proxyRegion, uniform,
} from "../../assemblyscript";
export { reserve, whirlpool_abi_v1 } from "../../assemblyscript";

let near = 0.25;
let seen = 0.0;
let pool = 0.0;

export function configure(settings: Settings, count: i32): i32 {
  for (let i = 0; i < count; i++) if (settings.key(i) != "near") return settings.refuse(i, "there is near");
  near = settings.number(count, "near", near);
  if (!(near >= 0 && near <= 1)) return settings.refuse(settings.find(count, "near"), "it must be 0 to 1");
  return 0;
}

export function tolerance(): f64 {
  return near;
}

export function pool_changed(proxies: Proxies, count: i32): void {
  pool = 0;
  for (let i = 0; i < count; i++) {
    const p = proxies[i];
    pool += p.idHash + 2 * p.regionHash + 3 * p.weight + 4 * p.cost + 5 * p.idLength + 6 * p.regionLength;
    pool += 7 * proxyMetadata(p).number(p.metadataCount, "rank", 1);
    if (proxyID(p) == "second" && proxyRegion(p) == "eu") pool += 8;
  }
}

export function observe(o: Observation): void {
  seen = o.now + 2 * o.idHash + 3 * o.hostHash + 4 * o.attempt + 5 * o.success + 6 * o.latency +
    7 * o.status + 8 * o.delay;
}

export function score(r: RankRequest, candidates: Candidates, scores: Scores, count: i32): i32 {
  const request = r.count + 2 * r.now + 3 * r.attempt + 4 * r.turn + 5 * r.seed + 6 * r.hostHash +
    7 * r.regionHash + 8 * r.poolSize + 9 * r.idempotent + 10 * r.connect;
  const hashes = hash53("example.com") + pair53(hash53("a"), r.hostHash);
  for (let i = 0; i < count; i++) {
    const c = candidates[i];
    scores[i] = request + seen + pool + hashes + uniform(r.seed, i) + c.successRate + 2 * c.samples +
      3 * c.latencyMean + 4 * c.latencyEWMA + 5 * c.normalizedLatency + 6 * c.inFlight + 7 * c.weight +
      8 * c.cost + 9 * c.regionMatch + 10 * c.consecutiveFailures + 11 * c.sinceUse + 12 * c.uses +
      13 * c.breakerState + 14 * c.idHash + 15 * c.affinityHash + 16 * c.rotation;
  }
  return 0;
}
