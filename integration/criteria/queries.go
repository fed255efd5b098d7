//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/integration/criteria/report"
)

// queries measures the queries of SC-007 on a full day of metrics. During the measurement, more events are recorded.
func (p *program) queries(d *report.Data) error {
	p.stepCount++
	p.progress("queries over 24 hours")
	const proxies, minutes = 100, 24 * 60
	repeats := 200
	if p.quick {
		repeats = 20
	}
	end := time.Now()
	r := metrics.New(metrics.Config{Now: func() time.Time { return end }})
	record := func(at time.Time, n int) {
		e := core.AttemptEvent{ProxyID: fmt.Sprint("proxy-", n%proxies), Started: at, Ended: at.Add(time.Millisecond),
			Attempt: n % 3}
		e.Outcome.Result = core.ResultSuccess
		r.Attempt(&e)
		r.Request(&core.RequestEvent{Started: at, Ended: e.Ended, Attempts: 1 + n%3, Delivered: true, Status: 200})
	}
	for minute := range minutes {
		for n := range proxies {
			record(end.Add(time.Duration(minute-minutes)*time.Minute), n)
		}
	}
	stop, stopped := atomic.Bool{}, make(chan struct{})
	go func() {
		defer close(stopped)
		for n := 0; !stop.Load(); n++ {
			record(end, n)
			if n%100 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
	}()
	defer func() {
		stop.Store(true)
		<-stopped
	}()
	for _, q := range []struct {
		name string
		run  func() any
	}{
		{"summary", func() any { return r.Summary() }},
		{"time series by the hour", func() any { return r.Series(24, time.Hour) }},
		{"by proxy", func() any { return r.ByProxy(24) }},
		{"transitions", func() any { list, _ := r.Transitions(24); return list }},
	} {
		times := make([]time.Duration, repeats)
		for i := range times {
			began := time.Now()
			if _, err := json.Marshal(q.run()); err != nil {
				return err
			}
			times[i] = time.Since(began)
		}
		slices.Sort(times)
		d.Queries = append(d.Queries, report.Query{Name: q.name, P99: times[repeats*99/100]})
	}
	return nil
}
