package api

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core/evidence"
)

// Targets lists the targets with recent failures.
type Targets interface {
	Targets() []evidence.TargetView
}

var _ Targets = (*evidence.Ledger)(nil)

// targetHandler serves /targets.
type targetHandler struct {
	ledger Targets
	pool   Pool
}

func (h *targetHandler) routes(r fiber.Router) { r.Get("/targets", h.list) }

// targetView is the JSON of a target with a recent failure.
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

// targetsView is the JSON of one page of the targets.
type targetsView struct {
	NextCursor *string      `json:"next_cursor"` // null on the last page
	Targets    []targetView `json:"targets"`
	Total      int          `json:"total"`
}

// Limits on the targets of one page.
const (
	maxTargets     = 1000
	defaultTargets = 100
)

// list responds with the targets: first the suspect ones, then the others by their number of failures.
func (h *targetHandler) list(c *fiber.Ctx) error {
	limit, err := queryInt(c, "limit", 1, maxTargets, defaultTargets)
	if err != nil {
		return err
	}
	offset, err := queryInt(c, "cursor", 0, 1<<30, 0) // the next_cursor of the previous page
	if err != nil {
		return err
	}
	all := h.ledger.Targets()
	slices.SortFunc(all, worseFirst)
	begin := min(offset, len(all))
	end := min(begin+limit, len(all))
	v := targetsView{Targets: make([]targetView, 0, end-begin), Total: len(all)}
	for i := begin; i < end; i++ {
		v.Targets = append(v.Targets, h.view(&all[i]))
	}
	if end < len(all) {
		cursor := strconv.Itoa(end)
		v.NextCursor = &cursor
	}
	return send(c, v)
}

func worseFirst(a, b evidence.TargetView) int {
	if a.Suspect != b.Suspect {
		if a.Suspect {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(b.Failures, a.Failures), strings.Compare(a.Name, b.Name))
}

func (h *targetHandler) view(t *evidence.TargetView) targetView {
	v := targetView{
		Target: t.Name, Attempts: t.Attempts, Failures: t.Failures, FailureRate: t.FailureRate,
		ProxiesFailing: t.Proxies, Suspect: t.Suspect, LastFailure: h.pool.At(t.LastFailure).UTC(),
	}
	if t.LastSuccess > 0 {
		at := h.pool.At(t.LastSuccess).UTC()
		v.LastSuccess = &at
	}
	return v
}
