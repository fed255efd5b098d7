package api

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// targetView is a target with a recent failure.
type targetView struct {
	Target         string     `json:"target"` // host:port
	Attempts       int        `json:"attempts"`
	Failures       int        `json:"failures"`
	FailureRate    float64    `json:"failure_rate"`
	ProxiesFailing int        `json:"proxies_failing"`
	Suspect        bool       `json:"suspect"`
	LastFailure    time.Time  `json:"last_failure"`
	LastSuccess    *time.Time `json:"last_success"`
}

// The most targets of one page, and how many there are without a limit.
const (
	maxTargets     = 1000
	defaultTargets = 100
)

// listTargets lists the targets with recent failures: suspect ones first, then by
// failures.
func (s *Server) listTargets(c *fiber.Ctx) error {
	limit, err := whole(c, "limit", 1, maxTargets, defaultTargets)
	if err != nil {
		return err
	}
	offset, err := whole(c, "cursor", 0, 1<<30, 0) // of the page before: next_cursor
	if err != nil {
		return err
	}
	pool := s.Engine.Pool()
	all := pool.Ledger().Targets()
	slices.SortFunc(all, func(a, b evidence.TargetView) int {
		if a.Suspect != b.Suspect {
			if a.Suspect {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(b.Failures, a.Failures), strings.Compare(a.Name, b.Name))
	})
	page := all[min(offset, len(all)):min(offset+limit, len(all))]
	out := make([]targetView, 0, len(page))
	for i := range page {
		t := &page[i]
		v := targetView{
			Target: t.Name, Attempts: t.Attempts, Failures: t.Failures, FailureRate: t.FailureRate, ProxiesFailing: t.Proxies,
			Suspect: t.Suspect, LastFailure: pool.At(t.LastFailure).UTC(),
		}
		if t.LastSuccess > 0 {
			at := pool.At(t.LastSuccess).UTC()
			v.LastSuccess = &at
		}
		out = append(out, v)
	}
	var next *string
	if end := offset + len(page); end < len(all) {
		cursor := strconv.Itoa(end)
		next = &cursor
	}
	return s.send(c, fiber.Map{"targets": out, "total": len(all), "next_cursor": next})
}

// whole reads an integer of the query.
func whole(c *fiber.Ctx, name string, least, most, missing int) (int, error) {
	q, given := query(c, name)
	if !given {
		return missing, nil
	}
	n, err := strconv.Atoi(q)
	if err != nil || n < least || n > most || strings.HasPrefix(q, "+") {
		limit := strconv.Itoa(least) + " to " + strconv.Itoa(most)
		return 0, refuse(400, "invalid_field", name+" must be one integer from "+limit, fiber.Map{"field": name, "limit": limit})
	}
	return n, nil
}

// whyView explains a breaker: the failures of its proxy beside those of the rest of
// the pool.
type whyView struct {
	Summary  string         `json:"summary"`
	Since    *time.Time     `json:"since"`
	Failures int            `json:"failures"`
	Served   int            `json:"successes"`
	Evidence float64        `json:"evidence"` // in nats
	Needed   float64        `json:"needed"`
	Own      int            `json:"own_failures"` // of a kind that no target causes
	OwnKinds map[string]int `json:"own_causes"`
	Targets  []targetWhy    `json:"targets"`
}

type targetWhy struct {
	Target       string         `json:"target"`
	Failures     int            `json:"failures"`
	Attempts     int            `json:"attempts"`
	Causes       map[string]int `json:"causes"`
	RestFailures int            `json:"rest_failures"`
	RestAttempts int            `json:"rest_attempts"`
	Noise        float64        `json:"noise"` // share of failures that is usual there
	Evidence     float64        `json:"evidence"`
}

func (s *Server) whyOf(w evidence.Why) whyView {
	v := whyView{
		Summary: w.Text(func(c uint8) string { return verdict.Word(core.Cause(c)) }), Failures: w.Failures, Served: w.Successes,
		Evidence: w.Evidence, Needed: w.Needed, Own: w.Own, OwnKinds: causes(w.OwnCause), Targets: make([]targetWhy, 0, len(w.Targets)),
	}
	if w.Failures > 0 {
		at := s.Engine.Pool().At(w.Since).UTC()
		v.Since = &at
	}
	for _, t := range w.Targets {
		v.Targets = append(v.Targets, targetWhy{
			Target: t.Name, Failures: t.Failures, Attempts: t.Attempts, Causes: causes(t.Causes),
			RestFailures: t.RestFailures, RestAttempts: t.RestAttempts, Noise: t.Noise, Evidence: t.Evidence,
		})
	}
	return v
}

func causes(list []evidence.CauseCount) map[string]int {
	out := map[string]int{}
	for _, c := range list {
		out[verdict.Word(core.Cause(c.Cause))] = c.Count
	}
	return out
}
