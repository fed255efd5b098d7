# Fetches each URL six times by GET and by POST, through the gateway: over HTTP with HTTP/1.1 and HTTP/2, and over SOCKS5.
import sys

import httpx

gateway, urls = sys.argv[1], sys.argv[2:]
headers = {"X-Whirlpool-Retry": "retry_non_idempotent=true"}
for scheme in "http", "socks5":
    for http2 in False, True:
        with httpx.Client(proxies=f"{scheme}://{gateway}", http2=http2, timeout=30) as client:
            for url in urls:
                for _ in range(6):
                    r = client.get(url)
                    assert r.status_code == 200 and " GET " in r.text, (url, r.status_code, r.text)
                    r = client.post(url, content="the body", headers=headers)
                    assert r.status_code == 200 and r.text.endswith("POST the body"), (url, r.status_code, r.text)
                    if url.startswith("https:"):
                        assert r.http_version == ("HTTP/2" if http2 else "HTTP/1.1"), r.http_version
print("ok", httpx.__version__)
