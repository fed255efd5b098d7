# Fetches each URL twelve times by GET and by POST at the same time, through the gateway: over HTTP, and over SOCKS5.
import asyncio
import sys

import aiohttp
from aiohttp_socks import ProxyConnector

gateway, urls = sys.argv[1], sys.argv[2:]
headers = {"X-Whirlpool-Retry": "retry_non_idempotent=true"}


async def fetch(session, url, **options):
    async with session.get(url, **options) as r:
        text = await r.text()
        assert r.status == 200 and " GET " in text, (url, r.status, text)

    async def body():  # of unknown length: the request is chunked
        yield b"the "
        yield b"body"

    for data in b"the body", body():
        async with session.post(url, data=data, headers=headers, **options) as r:
            text = await r.text()
            assert r.status == 200 and text.endswith("POST the body"), (url, r.status, text)


async def main():
    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(fetch(session, url, proxy=f"http://{gateway}") for url in urls * 12))
    connector = ProxyConnector.from_url(f"socks5://{gateway}", rdns=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(fetch(session, url) for url in urls * 12))


asyncio.run(main())
print("ok", aiohttp.__version__)
