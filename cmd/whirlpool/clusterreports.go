package main

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/cluster"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
)

// The times of reports.
const (
	reportInterval = 2 * time.Second
	reportTTL      = time.Minute            // time for which the store keeps a report
	reportRenewal  = 20 * time.Second       // time after which a report is written again although it has not changed
	reportSpread   = 100 * time.Millisecond // interval of reports per live node, if the sum is longer
	reportMaxAge   = time.Second            // maximum age of the read reports that Reports returns again
	reportTimeout  = 2 * time.Second        // longest time of reading all reports
	maxReportSize  = 1 << 20
)

// reportPrefix is the beginning of the name of a report's blob. The ID of the node follows.
const reportPrefix = "report:"

// reports are the reports that were read last.
type reports struct {
	mu   sync.Mutex // held while reports are read
	at   time.Time
	last cluster.Reports
}

// makeReport returns the breakers and targets of this node.
func (cn *clusterNode) makeReport() (r cluster.Report) {
	pool := cn.engine.Load().Pool()
	for _, u := range pool.Snapshot().All {
		if u.State() == core.Closed {
			continue
		}
		b := u.Breaker().Snapshot()
		if b.State == core.Closed {
			continue
		}
		row := cluster.BreakerReport{Proxy: u.ID(), State: b.State.String(), Failures: b.FailureCount}
		if b.State == core.Open {
			row.Due = b.NextTest
		}
		if r.Breakers = append(r.Breakers, row); len(r.Breakers) == cluster.MaxReported {
			break
		}
	}
	targets := pool.Ledger().Targets()
	slices.SortFunc(targets, func(a, b evidence.TargetView) int { return a.Rank().Compare(b.Rank()) })
	for _, t := range targets[:min(len(targets), cluster.MaxReported)] {
		r.Targets = append(r.Targets, cluster.TargetReport{Target: t.Name, Attempts: t.Attempts, Failures: t.Failures,
			Proxies: t.Proxies, Suspect: t.Suspect, LastFailure: pool.TimeAt(t.LastFailure)})
	}
	return r
}

// writeReports writes the reports of this node to the store until ctx ends.
func (cn *clusterNode) writeReports(ctx context.Context) {
	var w writtenReport
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(reportInterval, time.Duration(cn.node.Live())*reportSpread)):
		}
		cn.renewReport(ctx, &w, time.Now())
	}
}

// writtenReport is the report that the store has of this node.
type writtenReport struct {
	report *cluster.Report // nil for none
	at     time.Time
}

// renewReport writes a report of this node to the store. It writes nothing if no other node is live, if the store has
// a similar recent report (w), or if the new report is empty and the store has no report of this node.
func (cn *clusterNode) renewReport(ctx context.Context, w *writtenReport, now time.Time) {
	ahead, err := cn.node.Ahead()
	if err != nil {
		w.report = nil
		return
	}
	if cn.node.Live() < 2 {
		return
	}
	r := cn.makeReport()
	if w.report == nil && r.Empty() || w.report != nil && r.Like(w.report) && now.Sub(w.at) < reportRenewal {
		return
	}
	shifted := r.Shifted(ahead)
	if data, err := json.Marshal(&shifted); err == nil && cn.writeReport(ctx, data) == nil {
		if w.report, w.at = &r, now; r.Empty() {
			w.report = nil
		}
	}
}

func (cn *clusterNode) writeReport(ctx context.Context, data []byte) error {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	return cn.blobs.WriteBlob(ctx, reportPrefix+cn.node.ID(), data, reportTTL)
}

// Reports returns the reports of the live nodes. The report of this node comes first.
func (cn *clusterNode) Reports() cluster.Reports {
	cn.reports.mu.Lock()
	defer cn.reports.mu.Unlock()
	own := cluster.NodeReport{Node: cn.node.Name(), Report: cn.makeReport()}
	if time.Since(cn.reports.at) >= reportMaxAge {
		cn.reports.last = cn.readReports()
		cn.reports.at = time.Now() // calls that waited for the mutex during the reading use these reports
	}
	out := cn.reports.last
	out.Nodes = append([]cluster.NodeReport{own}, out.Nodes...)
	return out
}

// readReports reads the reports of the other live nodes.
func (cn *clusterNode) readReports() (out cluster.Reports) {
	ctx, cancel := context.WithTimeout(context.Background(), reportTimeout)
	defer cancel()
	ahead, alone := cn.node.Ahead()
	var nodes, blobs []string
	for _, n := range cn.node.Status().Nodes {
		if !n.Self && n.Live {
			nodes, blobs = append(nodes, n.Node), append(blobs, reportPrefix+n.ID)
		}
	}
	if alone != nil || len(nodes) == 0 {
		out.Missing = nodes
		return out
	}
	data, errs := cn.blobs.ReadBlobs(ctx, blobs, maxReportSize)
	for i, err := range errs {
		var r cluster.Report
		if err == nil {
			err = json.Unmarshal(data[i], &r)
		}
		if err != nil && !errors.Is(err, cluster.ErrNoBlob) { // a node without a blob has nothing to report
			out.Missing = append(out.Missing, nodes[i])
			continue
		}
		out.Nodes = append(out.Nodes, cluster.NodeReport{Node: nodes[i], Report: r.Shifted(-ahead)})
	}
	return out
}
