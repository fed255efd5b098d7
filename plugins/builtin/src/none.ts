// Every response is fine. The gateway does not call it: without a judge it gives no response to one.
import { JudgeRequest, Ruling } from "../../../sdk/assemblyscript/records";
export { reserve, whirlpool_abi_v1 } from "./abi";

export function judge(request: JudgeRequest, ruling: Ruling): i32 {
  return 0;
}
