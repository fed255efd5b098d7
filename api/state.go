package api

import (
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core/changes"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// Changes makes changes to the running gateway. If persist is set, a change survives a restart. An error comes from the
// changed part of the gateway, or is a *changes.NotRecordedError.
type Changes interface {
	AddProxies(specs []upstream.Spec, persist bool) ([]*upstream.Upstream, error)
	ChangeProxy(id string, change func(*upstream.Spec) error, persist bool) (*upstream.Upstream, error)
	RemoveProxy(id string, drain, persist bool) error
	// RestoreProxy undoes a removal of the last ten minutes.
	RestoreProxy(id string, persist bool) (*upstream.Upstream, error)
	ChangePolicy(o retry.Override, persist bool) (retry.View, error)
	ResetPolicy(persist bool) (retry.View, error)
	// Activate makes the gateway use a plugin. The parameter use is the place where the plugin is used: "first" (first
	// scorer), "retry" (retry scorer), "backoff" or "judge".
	Activate(use, plugin string, persist bool) error
	// RecordedChanges returns the recorded changes; ok is false if there is no state folder.
	RecordedChanges() (list []changes.Record, ok bool)
	// RecordsVersion returns a number. As long as the number is the same, RecordedChanges returns the same changes. It
	// does not wait.
	RecordsVersion() uint64
	// DeleteRecord deletes the record of a key, or all records if key is "".
	DeleteRecord(key string) error
}

var _ Changes = (*changes.Changes)(nil)

// stateHandler serves the endpoints under /state.
type stateHandler struct {
	changes Changes
	dir     string
}

func (h *stateHandler) routes(r fiber.Router) {
	r.Get("/state", h.show)
	r.Delete("/state", h.clear)
}

// changeView is the JSON of one recorded change.
type changeView struct {
	Key     string    `json:"key"`    // policy, plugin/USE or proxy/ID
	Change  string    `json:"change"` // added, changed, removed or activated
	At      time.Time `json:"at"`
	InForce bool      `json:"in_force"`
}

func (h *stateHandler) show(c *fiber.Ctx) error {
	list, ok := h.changes.RecordedChanges()
	views := make([]changeView, len(list))
	for i, r := range list {
		views[i] = changeView{r.Key, r.Change, r.At.UTC(), r.InForce}
	}
	return send(c, struct {
		Kept    bool         `json:"kept"`
		Dir     string       `json:"dir"`
		Changes []changeView `json:"changes"`
	}{ok, h.dir, views})
}

func (h *stateHandler) clear(c *fiber.Ctx) error {
	key, given := queryValue(c, "key")
	if given && key == "" {
		return badField("key", "key must be the key of one change, as GET /api/v1/state lists them")
	}
	if err := h.changes.DeleteRecord(key); err != nil {
		return err
	}
	return c.SendStatus(fiber.StatusNoContent)
}
