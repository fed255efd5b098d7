package metrics

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// exemplars holds a recent request for each bucket of a histogram (OpenMetrics 1.0, section Exemplars).
type exemplars [len(bucketBounds) + 1]exemplar

// exemplarEvery is the minimum time for which a bucket keeps its exemplar, so that most requests write nothing.
const exemplarEvery = time.Second

// exemplar is one request. The field version is a sequence lock: it is odd while the exemplar is being written.
type exemplar struct {
	version  atomic.Uint32
	id       atomic.Uint64 // a core.RequestID
	duration atomic.Int64  // ns
	at       atomic.Int64  // ns since the Unix epoch
}

// offerRequest stores a request as the exemplar of its bucket, unless the bucket has a recent one.
func (ex *exemplars) offerRequest(bucket int, id core.RequestID, duration time.Duration, ended time.Time) {
	e := &ex[bucket]
	now := ended.UnixNano()
	if now-e.at.Load() < int64(exemplarEvery) {
		return
	}
	v := e.version.Load()
	if v%2 == 1 || !e.version.CompareAndSwap(v, v+1) {
		return
	}
	e.id.Store(uint64(id))
	e.duration.Store(int64(duration))
	e.at.Store(now)
	e.version.Store(v + 2)
}

// list returns the exemplars in the form of Prometheus.
func (ex *exemplars) list() (list []prometheus.Exemplar) {
	for i := range ex {
		e := &ex[i]
		v := e.version.Load()
		id, took, at := core.RequestID(e.id.Load()), time.Duration(e.duration.Load()), e.at.Load()
		if v == 0 || v%2 == 1 || e.version.Load() != v {
			continue
		}
		list = append(list, prometheus.Exemplar{Value: took.Seconds(), Timestamp: time.Unix(0, at),
			Labels: prometheus.Labels{"request_id": id.String()}})
	}
	return list
}

func (ex *exemplars) withExemplars(m prometheus.Metric) prometheus.Metric {
	list := ex.list()
	if len(list) == 0 {
		return m
	}
	with, err := prometheus.NewMetricWithExemplars(m, list...)
	if err != nil {
		return m // cannot happen: the label is short
	}
	return with
}
