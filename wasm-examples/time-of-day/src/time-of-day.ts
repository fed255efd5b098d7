// A scorer that prefers proxies at certain hours of the day. The hours of a proxy are in its
// metadata, or they are those that the settings have for its region.
//
//   utc_offset = 2       # hours east of Greenwich; 5.5 is half past five
//   [plugins.NAME.config.hours]
//   eu = "8-20"          # from 8:00 to 20:00
//   us = "14-18,20-2"    # also after midnight
//
// The quality of a proxy is 0.7 * success rate + 0.3 * (1 - normalized latency), 0 to 1. During
// its hours the score is 1 + quality, otherwise the quality. A proxy that has failed three
// times in a row has the lower score even during its hours.
import { Candidates, Proxies, RankRequest, Scores, Settings, hash53, proxyMetadata } from "../../../sdk/assemblyscript";
import { parseHours } from "./hours";
export { reserve, whirlpool_abi_v1 } from "../../../sdk/assemblyscript";

const FAILING: f64 = 3; // failures in a row

let utcOffset: f64 = 0; // hours
const ofRegion = new Map<f64, u32>(); // one bit for each hour, by the hash of the region
const ofProxy = new Map<f64, u32>(); // the same, by the hash of the id

export function configure(settings: Settings, count: i32): i32 {
  for (let i = 0; i < count; i++) {
    const key = settings.key(i);
    if (key == "utc_offset") {
      utcOffset = settings[i].number;
      if (!(utcOffset >= -14 && utcOffset <= 14)) return settings.refuse(i, "it must be hours, -14 to 14");
    } else if (key.startsWith("hours.")) {
      const hours = parseHours(settings[i].value, settings[i].valueLength);
      if (hours == 0) return settings.refuse(i, 'it must be hours such as "8-20" or "6-9,20-2"');
      ofRegion.set(hash53(key.substring(6)), hours);
    } else {
      return settings.refuse(i, "there are utc_offset and hours.REGION");
    }
  }
  return 0;
}

/** Computes the hours of each proxy, so that score does not have to. */
export function pool_changed(proxies: Proxies, count: i32): void {
  ofProxy.clear();
  for (let i = 0; i < count; i++) {
    const p = proxies[i];
    let hours: u32 = 0;
    const metadata = proxyMetadata(p);
    const own = metadata.find(p.metadataCount, "hours");
    if (own >= 0) hours = parseHours(metadata[own].value, metadata[own].valueLength);
    if (hours == 0 && ofRegion.has(p.regionHash)) hours = ofRegion.get(p.regionHash);
    if (hours != 0) ofProxy.set(p.idHash, hours);
  }
  __collect();
}

/** Scores within 2 % of the best count as equal, so such proxies take turns. */
export function tolerance(): f64 {
  return 0.02;
}

export function score(request: RankRequest, candidates: Candidates, scores: Scores, count: i32): i32 {
  const hours = Math.floor(request.now / 3600 + utcOffset); // since the Unix epoch, which begins at midnight
  const bit: u32 = 1 << <u32>(hours - 24 * Math.floor(hours / 24));
  for (let i = 0; i < count; i++) {
    const c = candidates[i];
    const quality = 0.7 * c.successRate + 0.3 * (1 - c.normalizedLatency);
    const its = c.consecutiveFailures < FAILING && ofProxy.has(c.idHash) && (ofProxy.get(c.idHash) & bit) != 0;
    scores[i] = its ? 1 + quality : quality;
  }
  return 0;
}
