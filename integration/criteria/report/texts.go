//go:build linux

package report

// The texts of the sections.

const sc001Text = "Virtual time, 10,000 requests at 50/s for six targets through eight proxies. Besides the " +
	"faults, each proxy fails 1 % of attempts. The share of the gap is (Whirlpool - single attempt) " +
	": (oracle - single attempt). The oracle reads when a fault begins and ends; the gateway can " +
	"only infer it from failures. So requests fail in the first second after proxies have swapped " +
	"their roles, at a target that has banned most of the proxies, and after an outage of all " +
	"proxies until a probe succeeds."

const partsText = "Requests served, in virtual time. The columns are Whirlpool's defaults and the same with one " +
	"part turned off or on."

const sc002Text = "Virtual time. Two of eight proxies fail with the given probability, the others 1 % of " +
	"attempts. Hot: 10,000 requests at 20/s, 2.5/s for each proxy; cold: 4,000 requests at 0.4/s, 0.05/s for each " +
	"proxy. The default scorer avoids failing proxies with breakers off as well. So Whirlpool is compared with " +
	"random rotation, which has neither; breakers alone are those with random scorers."

const sc003Text = "Virtual time, 10,000 requests at 50/s, eight proxies with a median latency of 50 ms. The figure " +
	"is the 95th percentile of the latency, from the client's first byte on, of the requests that " +
	"succeeded after at least one retry."

const sc004Text = "Virtual time, 100 requests per second. One proxy after the other fails every attempt for 40 s: " +
	"by 503s, by refusing connections, by hanging. A breaker excludes its proxy in the same critical " +
	"section that counts the failure. So the time from the proxy's first failing moment is measured, " +
	"and the number of attempts that began while its breaker was open."

const sc005Text = "Virtual time, 10,000 requests at 50/s. The figure is the share of the requests whose first " +
	"attempt failed that were served by the second attempt. The pools: eight proxies that fail 30 % " +
	"of attempts; four that fail 2 % and four 60 %; three of 5 %, four of 40 %, three of 70 %; ten " +
	"of 0 to 81 % (Zipf); four of 1 % and four of 60 % that change places each minute."

const sc010Text = "Virtual time, 10,000 requests at 50/s, `max_attempts = 10`. Of ten proxies one refuses " +
	"connections, one hangs and one responds 503, the others fail 2 % of attempts; and eight proxies of which each " +
	"attempt fails with a probability of 50 %, for which (1 - p^3) : (1 - p^10) = 87.6 % is the most that any choice " +
	"can reach within two retries."

const sc008Text = "All requests are in flight at the same time; a tenth of the attempts fails. Counts of clients, " +
	"proxies and the gateway's metrics must agree. `make test` checks for data races: every test " +
	"runs under the race detector, with 10,000 requests on sockets in `TestS64TenThousandInFlight`, " +
	"and a model of package breaker is explored exhaustively."

const verdictsText = "If the observer misses 99.5 % of the gap as well, a better choice of proxies cannot be " +
	"expected to reach it: what is missing then, no attempt has shown before."

const scenesText = "Medians of the rounds, and the worst round. Extra attempts are those beyond one for each " +
	"request: retries, hedges, and attempts on dead proxies. Refused connections are counted for " +
	"Whirlpool only. The cold start has three rounds, and Whirlpool's nine."

const pointsText = "The same kinds of faults for a shorter time: 1,000 requests at 250/s. Virtual time and " +
	"sockets have the same trace and the same luck; their intervals must overlap."

const sc006Text = "Sockets. The same binary with its defaults, and with retries, breakers, adaptive timeouts " +
	"and checks off: interleaved pairs, with the load and the fakes of `make bench-peers`. The CPU time of the " +
	"gateway's start is not counted. The load shares the cores with the gateway, so the CPU time of a request is " +
	"the better figure."

const sc007Text = "In process: 24 hours with attempts of 100 proxies in each minute, while a goroutine records " +
	"more; 200 queries of each kind, with their JSON."

const sc009Text = "Sockets. `max_attempts` is changed by PUT /api/v1/retry/policy under load. Requests that " +
	"begin after the response must run under the new policy."
