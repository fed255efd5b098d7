package api

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/minutes"
	"github.com/whirlpool-proxy/whirlpool/core/preview"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// previewHandler serves POST /retry/policy/preview.
type previewHandler struct {
	policies   Policies
	requests   Requests
	metrics    Metrics
	hasBackoff func(name string) bool
	now        func() time.Time
}

func (h *previewHandler) routes(r fiber.Router) { r.Post("/retry/policy/preview", h.preview) }

// previewPath is the path of the preview. It is a POST, because it has a body, but it changes nothing and reads no more
// than the requests that a key with the role read can list. So such a key may use it.
const previewPath = "/api/v1/retry/policy/preview"

// previewWindow is the time whose requests a preview examines.
const previewWindow = time.Hour

// previewView is the JSON of a preview: the recorded requests of the last hour, as they were and as they would have
// been under another policy.
type previewView struct {
	Policy      policyView     `json:"policy"`
	Summary     string         `json:"summary"`
	Requests    uint64         `json:"requests"` // requests of the last hour
	Examined    int            `json:"examined"` // number of these requests whose attempts are kept: the latest ones
	Since       *time.Time     `json:"since"`    // start of the earliest examined request; null if there is none
	Recorded    courseView     `json:"recorded"`
	UnderPolicy courseView     `json:"under_policy"`
	Fewer       int            `json:"fewer_attempts"` // requests with fewer attempts than recorded
	More        int            `json:"more_attempts"`  // requests with more attempts than recorded
	Statuses    []statusChange `json:"statuses"`
	Retries     retryShare     `json:"retries"`
	Limitations []string       `json:"untold"` // sentences about what the preview does not cover
}

// courseView is the JSON of the results of all examined requests under one policy.
type courseView struct {
	Attempts int     `json:"attempts"`
	Served   int     `json:"served"`
	Refused  int     `json:"refused"`
	Unknown  int     `json:"unknown"`
	Waited   float64 `json:"waited"` // sum of all backoffs in seconds
}

// statusChange is the JSON of the attempts with a status that one of the two policies retries and the other does not.
// The attempts are from the last hour.
type statusChange struct {
	Status   int    `json:"status"`
	Attempts uint64 `json:"attempts"`
	Retried  bool   `json:"retried"` // whether the policy of the preview retries the status
}

// retryShare is the JSON of the retries of the examined requests.
type retryShare struct {
	Attempts int `json:"attempts"`
	Served   int `json:"served"`
}

func (v *courseView) add(c preview.RequestCourse) {
	v.Attempts += c.Attempts
	v.Waited += c.BackoffTime.Seconds()
	switch c.Result {
	case preview.Served:
		v.Served++
	case preview.Refused:
		v.Refused++
	default:
		v.Unknown++
	}
}

func (h *previewHandler) preview(c *fiber.Ctx) error {
	var o retry.Override
	if err := decodeBody(c, &o); err != nil {
		return err
	}
	current, updated := h.policies.Current(), h.policies.View().UpdatedAt
	p := current.Merge(o)
	if err := p.Validate(h.hasBackoff); err != nil {
		return policyProblem("", err)
	}
	v := previewView{
		Policy: viewOfPolicy(&p), Requests: h.metrics.CountsWithin(previewWindow).Requests,
		Statuses: statusChanges(h.metrics.Reasons().SumAll(previewWindow), &p, current), Limitations: []string{},
	}
	start := h.now().Add(-previewWindow)
	for _, r := range h.requests.List(metrics.StateDone, maxRequests) {
		if r.Ended.Before(start) {
			continue
		}
		v.examine(&r, &p, current, r.Started.Before(updated))
	}
	v.Summary = v.text()
	v.addLimitations(&p, current)
	return send(c, v)
}

// examine adds one recorded request to the preview. It compares the recorded attempts of the request with its attempts
// under the policy p. The argument earlier is true if the request began before the current policy was set.
func (v *previewView) examine(r *metrics.Request, p, current *retry.Policy, earlier bool) {
	q := preview.Request{
		Method: r.Method, Final: r.Final, Status: r.Status, Attempts: r.Attempts, Earlier: earlier,
	}
	before, after := preview.RecordedCourse(&q), preview.CourseUnder(&q, p, current)
	v.Examined++
	v.Recorded.add(before)
	v.UnderPolicy.add(after)
	countIf(&v.Fewer, after.Attempts < before.Attempts)
	countIf(&v.More, after.Attempts > before.Attempts)
	if at := r.Started.UTC(); v.Since == nil || at.Before(*v.Since) {
		v.Since = &at
	}
	for i := range r.Attempts {
		if a := &r.Attempts[i]; a.Attempt > 0 {
			v.Retries.Attempts++
			countIf(&v.Retries.Served, a.Outcome.Cause == verdict.TunnelOpen ||
				a.Outcome.Cause == verdict.Answered && a.Outcome.Status < fiber.StatusBadRequest)
		}
	}
}

// statusChanges returns the attempts with a status that one of the two policies retries and the other does not.
func statusChanges(sum minutes.Sum, p, current *retry.Policy) []statusChange {
	attempts := map[int]uint64{}
	for k, n := range sum.Counts {
		cause, status := k.Cause(), k.Status()
		if (cause == verdict.Answered || cause == verdict.RetryStatus) &&
			p.RetriesStatus(status) != current.RetriesStatus(status) {
			attempts[status] += n.N
		}
	}
	out := []statusChange{}
	for status, n := range attempts {
		out = append(out, statusChange{status, n, p.RetriesStatus(status)})
	}
	slices.SortFunc(out, func(a, b statusChange) int { return a.Status - b.Status })
	return out
}

func (v *previewView) text() string {
	if v.Examined == 0 {
		return "no request has ended in the last hour, so there is nothing to compare"
	}
	same := v.Examined - v.Fewer - v.More
	parts := []string{}
	for _, part := range []struct {
		n    int
		text string
	}{{v.Fewer, "fewer attempts"}, {v.More, "more attempts"}, {same, "as many attempts as they had"}} {
		if part.n > 0 {
			parts = append(parts, fmt.Sprintf("%d would have had %s", part.n, part.text))
		}
	}
	text := fmt.Sprintf("of the latest %d requests, %s", v.Examined, strings.Join(parts, ", "))
	a, b := &v.Recorded, &v.UnderPolicy
	text += fmt.Sprintf("; %d would have been served (%d were)", b.Served, a.Served)
	if b.Unknown > 0 {
		text += fmt.Sprintf(", and %d more if their next attempt had been", b.Unknown)
	}
	return text
}

func (v *previewView) addLimitations(p, current *retry.Policy) {
	add := func(format string, values ...any) {
		v.Limitations = append(v.Limitations, fmt.Sprintf(format, values...))
	}
	if v.Requests > uint64(v.Examined) {
		add("the attempts of the latest %d of %d requests of the hour are kept; the others are not examined",
			v.Examined, v.Requests)
	}
	if v.More > 0 {
		text := "the result of an attempt that was not made is not known"
		if v.Retries.Attempts > 0 {
			text += "; " + strconv.Itoa(v.Retries.Served) + " of the " + strconv.Itoa(v.Retries.Attempts) +
				" retries among these requests were served"
		}
		add("%s", text)
	}
	if !preview.KnowsBackoff(p) {
		add("the waits of this backoff are not known in advance; they are taken from the attempts that were made")
	}
	if p.Hedge != current.Hedge || p.HedgeBudget != current.HedgeBudget {
		add("the effect of hedges is not computed")
	}
	if v.Examined > 0 {
		add("requests with a policy of their own, by a header or a rule, are examined as if they had none")
	}
}
