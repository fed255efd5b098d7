# Fetches each URL twelve times by GET and by POST through the gateway, several at once. Certificates are verified.
import sys

import scrapy
from scrapy.crawler import CrawlerProcess

gateway, urls = sys.argv[1], sys.argv[2:]
wrong, right = [], []


class Spider(scrapy.Spider):
    name = "spider"
    custom_settings = {
        "DOWNLOADER_CLIENTCONTEXTFACTORY": "scrapy.core.downloader.contextfactory.BrowserLikeContextFactory",
        "LOG_LEVEL": "ERROR", "RETRY_ENABLED": False, "TELNETCONSOLE_ENABLED": False,
    }

    def start_requests(self):
        for url in urls * 12:
            for method, body in ("GET", ""), ("POST", "the body"):
                yield scrapy.Request(url, method=method, body=body, meta={"proxy": f"http://{gateway}"},
                                     headers={"X-Whirlpool-Retry": "retry_non_idempotent=true"}, dont_filter=True,
                                     errback=lambda failure: wrong.append(repr(failure.value)))

    def parse(self, response):
        if response.text.rstrip().endswith(f"{response.request.method} {response.request.body.decode()}".rstrip()):
            right.append(response.url)
        else:
            wrong.append(response.text)


process = CrawlerProcess()
process.crawl(Spider)
process.start()
assert not wrong and len(right) == 24 * len(urls), (len(right), wrong)
print("ok", scrapy.__version__)
