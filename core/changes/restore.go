package changes

import (
	"fmt"
	"maps"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// RestoreTime is the time after a removal during which RestoreProxy can undo it.
const RestoreTime = 10 * time.Minute

// removed is a proxy as it was before its removal.
type removed struct {
	spec   upstream.Spec
	record any // the proxy's record before the removal; nil for none
	at     time.Time
}

// beforeRemoval returns a proxy that is about to be removed. It also forgets all removed proxies whose removal cannot
// be undone any more. If the proxy already drains after an earlier removal, the result is the proxy before that
// removal. The caller holds mu.
func (c *Changes) beforeRemoval(u *upstream.Upstream) removed {
	now := c.now()
	maps.DeleteFunc(c.removed, func(_ string, r removed) bool { return now.Sub(r.at) > RestoreTime })
	if r, ok := c.removed[u.ID()]; ok && u.Draining() {
		return r
	}
	r := removed{spec: *u.Spec(), at: now}
	if c.records.store != nil {
		if record, ok := c.records.store.Get(proxyKey + u.ID()); ok {
			r.record = record.Value
		}
	}
	return r
}

// RestoreProxy undoes the latest removal of a proxy, if the removal is not longer ago than RestoreTime. The proxy has
// its id and its settings again, with a new breaker and new statistics. If keep is set, the proxy also has the record
// again that it had before the removal.
func (c *Changes) RestoreProxy(id string, keep bool) (*upstream.Upstream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.removed[id]
	if !ok || c.now().Sub(r.at) > RestoreTime {
		return nil, fmt.Errorf("proxy %q was not removed in the last %.0f minutes: %w", id, RestoreTime.Minutes(),
			core.ErrNotFound)
	}
	if u := c.parts.Pool.Snapshot().Get(id); u != nil && u.Draining() {
		if err := c.parts.Pool.Remove(id, false); err != nil {
			return nil, err
		}
	}
	added, err := c.parts.Pool.Add([]upstream.Spec{r.spec})
	if err != nil {
		return nil, err
	}
	if c.keeps(keep) {
		if err := c.records.write(map[string]any{proxyKey + id: r.record}); err != nil {
			c.logUndo(c.parts.Pool.Remove(id, false))
			return nil, err
		}
	}
	delete(c.removed, id)
	return added[0], nil
}
