package client

import (
	"context"
	"time"
)

// AuditEntry is a change through the API of a gateway.
type AuditEntry struct {
	At      time.Time `json:"at"`   // time of the change; in a cluster, by the store's clock
	Node    string    `json:"node"` // the node whose API was used; "" without a cluster
	Key     string    `json:"key"`  // name of the API key; "" if the API requires none
	Method  string    `json:"method"`
	Path    string    `json:"path"`
	Query   string    `json:"query"`
	Changed []string  `json:"changed"`       // first 20 changed things or fields; empty if Path names the changed thing
	Total   int       `json:"changed_total"` // number of all changed things or fields
}

// AuditPage is one page of the audit trail.
type AuditPage struct {
	Changes []AuditEntry `json:"changes"`
	Page
}

// Audit lists the changes that were made through the API, the latest first. In a cluster, it lists the entries of all
// nodes. Of the fields of l, only Text, Sort, Limit and Cursor may be set.
func (c *Client) Audit(ctx context.Context, l List) (p *AuditPage, err error) {
	return p, c.Do(ctx, "GET", "/audit", l.Query(), nil, &p)
}
