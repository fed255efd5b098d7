package cluster

import (
	"errors"
	"slices"
	"time"
)

// Report lists breakers and targets of a node, as the node has observed them lately. The API shows the reports of all
// nodes in its lists. A node writes its report to the store as a blob. Another node reads this blob when its own API is
// asked.
type Report struct {
	Breakers []BreakerReport `json:"b,omitempty"` // that are not closed, at most MaxReported
	Targets  []TargetReport  `json:"t,omitempty"` // with a recent failure, at most MaxReported
}

// MaxReported is the maximum length of the lists of a Report.
const MaxReported = 500

// BreakerReport is a breaker of a node.
type BreakerReport struct {
	Proxy    string    `json:"p"` // id of the proxy
	State    string    `json:"s"` // open or half_open
	Failures int       `json:"f"` // in the breaker's window
	Due      time.Time `json:"d"` // end of the open time; zero for a half-open breaker
}

// TargetReport is a target of a node.
type TargetReport struct {
	Target      string    `json:"t"` // host:port
	Attempts    int       `json:"a"`
	Failures    int       `json:"f"`
	Proxies     int       `json:"p"` // that have failed lately
	Suspect     bool      `json:"s"`
	LastFailure time.Time `json:"l"`
}

// Empty reports whether the report is empty.
func (r *Report) Empty() bool { return len(r.Breakers)+len(r.Targets) == 0 }

// timeSlack is the difference below which two times count as equal. The times are computed anew for each report, with
// small errors.
const timeSlack = time.Second

// Like reports whether the reports r and o are equal, apart from small differences of times.
func (r *Report) Like(o *Report) bool {
	near := func(a, b time.Time) bool { return a.Sub(b).Abs() < timeSlack }
	return slices.EqualFunc(r.Breakers, o.Breakers, func(a, b BreakerReport) bool {
		same := near(a.Due, b.Due)
		a.Due = b.Due
		return same && a == b
	}) && slices.EqualFunc(r.Targets, o.Targets, func(a, b TargetReport) bool {
		same := near(a.LastFailure, b.LastFailure)
		a.LastFailure = b.LastFailure
		return same && a == b
	})
}

// Shifted returns the report with all times shifted by d.
func (r *Report) Shifted(d time.Duration) Report {
	var out Report
	for _, b := range r.Breakers {
		if !b.Due.IsZero() {
			b.Due = b.Due.Add(d)
		}
		out.Breakers = append(out.Breakers, b)
	}
	for _, t := range r.Targets {
		t.LastFailure = t.LastFailure.Add(d)
		out.Targets = append(out.Targets, t)
	}
	return out
}

// Reports are the reports of the live nodes.
type Reports struct {
	Nodes   []NodeReport
	Missing []string // names of live nodes whose report could not be read
}

// NodeReport is the report of a node. Its times are by the clock of the node that has read it.
type NodeReport struct {
	Node string
	Report
}

// ErrNotTogether reports that the node cannot reach the store, or has not reached it yet.
var ErrNotTogether = errors.New("the cluster's store cannot be reached")

// Ahead returns the time by which the store's clock is ahead of this node's clock. The error is ErrNotTogether.
func (n *Node) Ahead() (time.Duration, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.alone {
		return 0, ErrNotTogether
	}
	now := n.cfg.Now()
	return n.storeTime(now).Sub(now), nil
}

// ID returns the node's ID.
func (n *Node) ID() string { return n.cfg.ID }
