"""Changes of generated requests for what a schema cannot state: names that exist in the gateway, and names of fields."""

import re

import schemathesis

BACKOFFS = ["decorrelated_jitter", "exponential", "fixed", "linear"]
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")


@schemathesis.hook
def before_call(context, case, kwargs):
    if not isinstance(case.body, dict):
        return
    for policy in (case.body, case.body.get("retry")):
        if isinstance(policy, dict):
            name = policy.get("backoff_strategy")
            if isinstance(name, str) and NAME.fullmatch(name) and name not in BACKOFFS:
                policy["backoff_strategy"] = BACKOFFS[len(name) % len(BACKOFFS)]
    retry = case.body.get("retry")
    if isinstance(retry, dict) and isinstance(retry.get("hedge_budget"), (int, float)):
        retry["hedge_budget"] = min(retry["hedge_budget"], 0)  # the maximum is that of the global policy
    if "url" in case.body and case.path == "/request":  # so that backoffs of minutes do not stop the run
        retry = case.body.setdefault("retry", {})
        timeout = retry.get("timeout") if isinstance(retry, dict) else ""
        if timeout is None or isinstance(timeout, (int, float)) and timeout >= 0.1:
            retry["timeout"] = 0.1
    proxies = case.body.get("proxies")
    for proxy in [case.body] + (proxies if isinstance(proxies, list) else []):
        if isinstance(proxy, dict) and proxy.get("auth") == "digest":  # not for all schemes of proxies
            proxy["auth"] = ""
    headers = case.body.get("headers")
    if isinstance(headers, dict):
        for name in [name for name in headers if not TOKEN.fullmatch(name)]:
            if isinstance(headers[name], str):
                headers["x" + re.sub(r"[^0-9A-Za-z]", "", name)] = headers.pop(name)
