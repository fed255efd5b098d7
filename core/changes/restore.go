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

// removedProxy is a proxy as it was before its removal.
type removedProxy struct {
	spec      upstream.Spec
	record    any // the proxy's record before the removal; nil for none
	removedAt time.Time
}

// removedProxyOf returns the proxy u as it is before its removal. If u already drains, it returns u as it was before
// the first removal. It also deletes the elements of c.removed that are older than RestoreTime. The caller holds mu.
func (c *Changes) removedProxyOf(u *upstream.Upstream) removedProxy {
	now := c.now()
	maps.DeleteFunc(c.removed, func(_ string, r removedProxy) bool { return now.Sub(r.removedAt) > RestoreTime })
	if r, ok := c.removed[u.ID()]; ok && u.Draining() {
		return r
	}
	r := removedProxy{spec: *u.Spec(), removedAt: now}
	if c.records.store != nil {
		if record, ok := c.records.store.Get(proxyKey + u.ID()); ok {
			r.record = record.Value
		}
	}
	return r
}

// RestoreProxy undoes the removal of a proxy within RestoreTime. The proxy has its id and its settings again, with a
// new breaker and new statistics. If persist is set, the proxy also has its record again.
func (c *Changes) RestoreProxy(id string, persist bool) (*upstream.Upstream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.removed[id]
	if !ok || c.now().Sub(r.removedAt) > RestoreTime {
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
	if c.willRecord(persist) {
		if err := c.records.write(map[string]any{proxyKey + id: r.record}); err != nil {
			c.logUndoError(c.parts.Pool.Remove(id, false))
			return nil, err
		}
	}
	delete(c.removed, id)
	return added[0], nil
}
