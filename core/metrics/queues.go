package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// QueueState is the state of one queue for one priority at the time of a scrape.
type QueueState struct {
	Queue    string // "place" for a place in flight at a proxy, "retry" for a retry of the retry budget
	Priority string
	Waiting  int
	Queued   uint64        // requests that have waited or wait
	Expired  uint64        // requests that have waited for the maximum time
	Full     uint64        // requests that were refused or displaced because the queue was full
	WaitTime time.Duration // sum of all waits that have ended
}

// SetQueueSource sets a function that is called at each scrape. The function returns the state of the queues.
func (r *Recorder) SetQueueSource(queues func() []QueueState) {
	r.sources.mu.Lock()
	defer r.sources.mu.Unlock()
	r.sources.queues = queues
}

func queueDesc(name, help string) *prometheus.Desc { return newDesc(name, help, "queue", "priority") }

var (
	queueWaitingDesc = queueDesc("queue_waiting", "requests that wait for a place at a proxy, or a retry of the budget")
	queuedDesc       = queueDesc("queued_total", "requests that have waited in a queue, or wait")
	queueExpiredDesc = queueDesc("queue_expired_total", "requests that got no place within queue.max_wait")
	queueFullDesc    = queueDesc("queue_full_total", "requests that a full queue refused or displaced")
	queueTimeDesc    = queueDesc("queue_wait_seconds_total", "time that requests have waited in a queue")
)

func (s *QueueState) collect(out chan<- prometheus.Metric) {
	emit(out, queueWaitingDesc, prometheus.GaugeValue, float64(s.Waiting), s.Queue, s.Priority)
	emit(out, queuedDesc, prometheus.CounterValue, float64(s.Queued), s.Queue, s.Priority)
	emit(out, queueExpiredDesc, prometheus.CounterValue, float64(s.Expired), s.Queue, s.Priority)
	emit(out, queueFullDesc, prometheus.CounterValue, float64(s.Full), s.Queue, s.Priority)
	emit(out, queueTimeDesc, prometheus.CounterValue, s.WaitTime.Seconds(), s.Queue, s.Priority)
}
