// A judge that uses every field.
import { bodyHas, JudgeRequest, judgeWants, Kind, responseFields, Ruling } from "../../assemblyscript";
export { reserve, whirlpool_abi_v1 } from "../../assemblyscript";

export function judge_wants(): usize {
  return judgeWants("body 100\nfield x\nfield server\nstatus 200-599");
}

export function judge(r: JudgeRequest, ruling: Ruling): i32 {
  if (r.status == 404) {
    ruling.kind = Kind.TARGET_FAULT;
    return 0;
  }
  const number = responseFields(r).number(r.fieldCount, "x", 0);
  ruling.kind = Kind.BANNED;
  ruling.rest = r.now + 2 * r.attempt + 3 * r.attemptsLeft + 4 * r.status + 5 * r.latency + 6 * r.hostHash +
    7 * r.idHash + 8 * r.contentLength + 9 * r.encoded + 10 * r.whole + 11 * <f64>r.fieldCount +
    12 * <f64>r.bodyLength + 13 * (isNaN(number) ? 0 : number) +
    14 * <f64>bodyHas(r, "captcha");
  return 0;
}
