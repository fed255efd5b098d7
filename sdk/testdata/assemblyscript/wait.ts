// A backoff that uses every field, as everything.ts does. It also writes log lines and
// declares settings.
import { BackoffRequest, Level, count, describeSettings, gauge, log, say } from "../../assemblyscript";
export { reserve, whirlpool_abi_v1 } from "../../assemblyscript";

export function describe(): usize {
  return describeSettings(
    "margin\tnumber\t0..1\t0.25\thow near is equal\n" +
    "steps\tinteger\t1..9\t3\n" +
    "eager\tboolean\t\ttrue\n" +
    "mode\ttext\tfast|slow\tfast\n");
}

export function backoff(r: BackoffRequest): f64 {
  if (r.retry == -1) {
    say("to the standard error");
    log(Level.INFO, "waiting");
    count("waits_total", 2);
    gauge("level", 0.5);
  }
  if (r.retry == -2) throw new Error("no spoon");
  return r.retry + 2 * r.baseDelay + 3 * r.multiplier + 4 * r.cap + 5 * r.jitter + 6 * r.random +
    7 * r.previousDelay + 8 * r.retryAfter + 9 * r.lastStatus + 10 * r.elapsed + 11 * r.remaining +
    12 * r.maxAttempts + 13 * r.hostHash + 14 * r.idHash + 15 * r.now;
}
