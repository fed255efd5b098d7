package cluster

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"time"
)

// The limits of the audit trail.
const (
	auditFor     = 7 * 24 * time.Hour // time for which the store keeps an entry
	auditEntries = 200                // entries of one process in the store: a new one replaces the oldest
	maxTrail     = 2000               // entries that a node keeps in memory
	reportFor    = time.Minute        // maximum age at which another node's entry is reported to the gateway
)

// AuditEntry is an entry of the audit trail: a request to the API of a node that has changed something. It has no
// secrets.
type AuditEntry struct {
	At      time.Time `json:"-"` // by the store's clock
	Node    string    `json:"n"`
	Key     string    `json:"k,omitempty"` // name of the API key; "" if the API requires none
	Method  string    `json:"m"`
	Path    string    `json:"p"`
	Query   string    `json:"q,omitempty"`
	Changed []string  `json:"c,omitempty"` // the things or the fields that were changed
	Total   int       `json:"t,omitempty"` // number of changed things; Changed has only the first ones
}

// Audit adds an entry of this node to the audit trail of the cluster. It sets the entry's node and time.
func (n *Node) Audit(e AuditEntry) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := n.cfg.Now()
	at := now
	if !n.localAt.IsZero() {
		at = n.storeTime(now)
	}
	e.Node = n.cfg.Node
	key := keyOf(auditKey, n.cfg.ID, strconv.Itoa(n.audited%auditEntries))
	n.audited++
	op := Op{Kind: Put, Key: key, Value: encode(e), TTL: auditFor}
	n.trail[key] = Record{Key: key, Value: op.Value, At: at} // replaced when the store's record arrives
	n.trailVersion++
	n.report(event{op: op, at: now})
	n.notify()
}

// AuditTrail returns the entries of all nodes, the latest first.
func (n *Node) AuditTrail() []AuditEntry {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]AuditEntry, 0, len(n.trail))
	for _, r := range n.latestAudits() {
		if e, ok := auditOf(&r); ok {
			out = append(out, e)
		}
	}
	return out
}

// AuditVersion returns a number that changes with each new entry of the audit trail. It does not change when an entry
// expires.
func (n *Node) AuditVersion() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.trailVersion
}

// latestAudits returns the records of all entries, the latest first. The caller holds mu.
func (n *Node) latestAudits() []Record {
	return slices.SortedFunc(maps.Values(n.trail), func(a, b Record) int {
		return cmp.Or(b.At.Compare(a.At), cmp.Compare(b.Rev, a.Rev), cmp.Compare(b.Key, a.Key))
	})
}

func auditOf(r *Record) (e AuditEntry, ok bool) {
	err := json.Unmarshal([]byte(r.Value), &e)
	e.At = r.At
	return e, err == nil
}

// receiveAudit adds a received entry to the audit trail. It also reports a new entry of another node to the gateway,
// unless the entry is old. A node that was alone for long receives many old entries, which would displace the latest
// events of the gateway's event stream. The caller holds mu.
func (n *Node) receiveAudit(node string, r *Record) {
	e, ok := auditOf(r)
	known, held := n.trail[r.Key]
	if !ok || held && known.Rev > 0 && known.At.After(r.At) {
		return
	}
	n.trail[r.Key] = *r
	n.trailVersion++
	isNew := !held || known.Value != r.Value || !known.At.Equal(r.At)
	if isNew && node != n.cfg.ID && !n.fresh && n.storeTime(n.cfg.Now()).Sub(r.At) <= reportFor {
		n.local.Audited(e)
	}
}

// expireAudits removes the entries whose records have ended at the given time of the store's clock, and the oldest
// entries beyond maxTrail. The caller holds mu.
func (n *Node) expireAudits(at time.Time) {
	maps.DeleteFunc(n.trail, func(_ string, r Record) bool { return r.Ended(at) })
	if len(n.trail) <= maxTrail {
		return
	}
	for _, r := range n.latestAudits()[maxTrail:] {
		delete(n.trail, r.Key)
	}
}
