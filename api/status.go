package api

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// statusHandler serves GET /status.
type statusHandler struct {
	lists   *poolLists
	metrics Metrics
	tracker Requests
	now     func() time.Time
	cluster Cluster // nil without a cluster
}

func (h *statusHandler) routes(r fiber.Router) { r.Get("/status", h.get) }

// statusView is the JSON of the state of the gateway in a few figures.
type statusView struct {
	Summary  string         `json:"summary"` // the following fields in one sentence
	Proxies  poolCounts     `json:"proxies"`
	Failures []failureGroup `json:"failures"`
	Requests windowView     `json:"requests"`
	Losses   []lossView     `json:"losses"`            // groups of lost requests among the latest 1,000 requests
	Cluster  *clusterStatus `json:"cluster,omitempty"` // absent without a cluster
}

// poolCounts is the JSON of the numbers of proxies. A proxy counts in each of its states, so the sum of the states
// may exceed Total.
type poolCounts struct {
	Total     int `json:"total"`
	InService int `json:"in_service"` // breaker closed, and neither draining nor banned nor unreached
	Closed    int `json:"closed"`
	Open      int `json:"open"`
	HalfOpen  int `json:"half_open"`
	Draining  int `json:"draining"`
	Banned    int `json:"banned"`
	Unreached int `json:"unreached"`
	Failing   int `json:"failing"`
}

// failureGroup is the JSON of failing proxies whose latest failures have the same cause, status and host.
type failureGroup struct {
	Proxies int    `json:"proxies"`
	Cause   string `json:"cause"`  // "" if no attempt has failed in this process
	Status  int    `json:"status"` // status of the response; 0 without a response
	Host    string `json:"host"`   // "" if only the proxy can be the cause
	Reason  string `json:"reason"` // cause, status and host as a text, such as "403 at shop.example"
	Example string `json:"example"`
}

// windowView is the JSON of the requests within a time window that ends now.
type windowView struct {
	Window    float64 `json:"window"` // s
	Total     uint64  `json:"total"`
	Delivered uint64  `json:"delivered"`
	Refused   uint64  `json:"target_refused"` // delivered, with status 403 or 429
	Attempts  uint64  `json:"attempts"`
	Retries   uint64  `json:"retries"`
}

const statusWindow = 5 * time.Minute

// maxFailureGroups is the maximum number of groups in a status.
const maxFailureGroups = 10

func (h *statusHandler) get(c *fiber.Ctx) error { return send(c, h.view()) }

func (h *statusHandler) view() statusView {
	v := statusView{Failures: []failureGroup{}}
	groups := map[failureGroup]*failureGroup{} // the key has the fields that the proxies of a group have in common
	failing := h.lists.findFailing()
	for _, u := range h.lists.currentIndex().proxies {
		state := u.State()
		_, banned := h.lists.bannedUntil(u)
		p := &v.Proxies
		p.Total++
		countIf(&p.InService, u.InService(banned))
		countIf(&p.Closed, state == core.Closed)
		countIf(&p.Open, state == core.Open)
		countIf(&p.HalfOpen, state == core.HalfOpen)
		countIf(&p.Draining, u.Draining())
		countIf(&p.Banned, banned)
		countIf(&p.Unreached, u.IsUnreached())
		if !failing.includes(u) {
			continue
		}
		p.Failing++
		key := h.lists.failureGroupOf(u, failing)
		if groups[key] == nil {
			g := key
			g.Example = u.ID()
			groups[key] = &g
		}
		groups[key].Proxies++
	}
	for _, g := range groups {
		v.Failures = append(v.Failures, *g)
	}
	slices.SortFunc(v.Failures, func(a, b failureGroup) int {
		return cmp.Or(cmp.Compare(b.Proxies, a.Proxies), strings.Compare(a.Example, b.Example))
	})
	v.Failures = v.Failures[:min(len(v.Failures), maxFailureGroups)]
	w := h.metrics.CountsWithin(statusWindow)
	v.Requests = windowView{statusWindow.Seconds(), w.Requests, w.Delivered, w.Refused, w.Attempts, w.Retries}
	v.Losses = groupLosses(h.tracker.Losses(h.now().Add(-statusWindow)))
	v.Summary = v.text()
	if h.cluster != nil {
		s := h.cluster.Status()
		v.Cluster = viewOfCluster(&s)
		v.Summary += v.Cluster.text()
	}
	return v
}

func countIf(n *int, condition bool) {
	if condition {
		*n++
	}
}

// failureGroupOf returns the Cause, Status, Host and Reason of a failing proxy. If the proxy has had no attempts, Cause
// is the cause of its failed reachability checks, if there are any.
func (l *poolLists) failureGroupOf(u *upstream.Upstream, failing failingProxies) (g failureGroup) {
	r := failing[u]
	if r == nil { // the breaker of u is not closed, but its latest attempts do not fail
		recent := l.metrics.RecentAttempts(u.ID())
		r = &recent
	}
	if r.LastBad.At.IsZero() {
		if causes := u.EvidenceReport().OwnCauses; len(causes) > 0 {
			g.Cause = causeWord(causes[0].Cause)
		}
		g.Reason = cmp.Or(g.text(), unknownReason)
		return g
	}
	k := r.LastBad.Key
	g = failureGroup{Cause: verdict.CauseName(k.Cause()), Status: k.Status(), Host: r.LastBad.Host}
	if verdict.IsConnectFailure(k.Cause()) || verdict.BarsProxy(k.Cause()) {
		g.Host = ""
	}
	g.Reason = cmp.Or(g.text(), unknownReason)
	return g
}

// failureView is the JSON of the reason why a proxy counts as failing: its last failed attempt or, if no attempt has
// failed, its failed checks.
type failureView struct {
	Cause  string `json:"cause"` // all fields are as in a failureGroup
	Status int    `json:"status"`
	Host   string `json:"host"`
	Reason string `json:"reason"`
}

// failureOf returns nil if the proxy does not count as failing.
func (l *poolLists) failureOf(u *upstream.Upstream, failing failingProxies) *failureView {
	if !failing.includes(u) {
		return nil
	}
	g := l.failureGroupOf(u, failing)
	return &failureView{g.Cause, g.Status, g.Host, g.Reason}
}

// unknownReason is the reason of a failing proxy whose breaker was opened without a recorded attempt.
const unknownReason = "unknown"

func (v *statusView) text() string {
	text := v.poolText() + "; " + v.Requests.text()
	if len(v.Losses) == 0 || v.Requests.Total == 0 {
		return text
	}
	reason := v.Losses[0].Reason
	if len(v.Failures) > 0 && v.Failures[0].text() == reason {
		return text // poolText has stated the reason
	}
	noneServed := v.Requests.Delivered == v.Requests.Refused
	switch {
	case len(v.Losses) > 1 && noneServed:
		return text + ", most lost with " + reason
	case len(v.Losses) > 1:
		return text + ", most of the rest lost with " + reason
	case noneServed:
		return text + ", lost with " + reason
	}
	return text + ", the rest lost with " + reason
}

// poolText returns a text with the failing proxies and the number of banned proxies. A proxy may be both banned and
// failing.
func (v *statusView) poolText() string {
	text := v.failureText()
	switch n := v.Proxies.Banned; {
	case n == 0:
		return text
	case v.Proxies.Total == 1:
		return text + ", and is banned"
	default:
		return text + fmt.Sprintf(", %d banned", n)
	}
}

func (v *statusView) failureText() string {
	p := &v.Proxies
	switch {
	case p.Total == 0:
		return "the pool is empty"
	case p.Failing == 0 && p.Unreached == 1 && p.Total == 1:
		return "the proxy has not been reached"
	case p.Failing == 0 && p.Unreached == 1:
		return fmt.Sprintf("1 of %d proxies has not been reached", p.Total)
	case p.Failing == 0 && p.Unreached > 0:
		return fmt.Sprintf("%d of %d proxies have not been reached", p.Unreached, p.Total)
	case p.Failing == 0 && p.Total == 1:
		return "the proxy works"
	case p.Failing == 0 && p.Total == 2:
		return "both proxies work"
	case p.Failing == 0:
		return fmt.Sprintf("all %d proxies work", p.Total)
	}
	text := fmt.Sprintf("%d of %d proxies fail", p.Failing, p.Total)
	switch {
	case p.Total == 1:
		text = "the proxy fails"
	case p.Failing == 1:
		text += "s"
	}
	g := &v.Failures[0]
	switch {
	case g.text() == "":
		return text
	case g.Proxies == 1 && p.Failing > 2:
		return text + ", for different reasons"
	case g.Proxies == 1 && p.Failing == 2:
		return text + ", with " + g.text() + " and with " + v.Failures[1].text()
	case g.Proxies == p.Failing && p.Failing == 2:
		return text + ", both with " + g.text()
	case g.Proxies == p.Failing && p.Failing > 2:
		return text + ", all of them with " + g.text()
	case g.Proxies < p.Failing:
		return text + fmt.Sprintf(", %d of them with %s", g.Proxies, g.text())
	}
	return text + " with " + g.text()
}

// text returns the words for the cause, status and host of the group; "" if none is known.
func (g *failureGroup) text() string {
	text := strings.ReplaceAll(g.Cause, "_", " ")
	switch {
	case g.Status == 0:
	case g.Cause == verdict.CauseName(verdict.Answered), g.Cause == verdict.CauseName(verdict.RetryStatus):
		text = strconv.Itoa(g.Status)
	default:
		text += fmt.Sprintf(" (%d)", g.Status)
	}
	if text != "" && g.Host != "" {
		text += " at " + g.Host
	}
	return text
}

func (w *windowView) text() string {
	const minutes = int(statusWindow / time.Minute)
	if w.Total == 0 {
		return fmt.Sprintf("no requests in the last %d minutes", minutes)
	}
	share := math.Floor(ratio(w.Delivered-w.Refused, w.Total) * 100) // rounded down
	return fmt.Sprintf("%.0f %% delivered in the last %d minutes", share, minutes)
}
