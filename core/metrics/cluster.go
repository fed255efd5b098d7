package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// ClusterState is the state of the cluster at the time of a scrape, as this node has received it.
type ClusterState struct {
	Alone, Isolated bool
	Nodes           int // nodes that are alive
	OpenBreakers    int
	WaitingEvents   int            // events that the store does not have yet
	Lag             time.Duration  // time since the last exchange; negative if there was none
	ExchangeTime    time.Duration  // of the last exchange
	Uploads         map[string]int // number of shared uploads by state

	Limits, ShortLimits int // shared limits in use, and the part of them whose share is used up

	ShareRequests, Exchanges, Failures, TimesAlone, Sent, Received uint64
	DroppedEvents, Leases, FencedResults, FollowedOpenings         uint64
}

// SetClusterSource sets the function that returns the state of the cluster. It is called at each scrape.
func (r *Recorder) SetClusterSource(state func() ClusterState) {
	r.sources.mu.Lock()
	defer r.sources.mu.Unlock()
	r.sources.cluster = state
}

var (
	clusterAloneDesc    = newDesc("cluster_alone", "1 while the cluster's store cannot be reached, else 0")
	clusterIsolatedDesc = newDesc("cluster_isolated", "1 while the proxies that fail here serve other gateways, else 0")
	clusterNodesDesc    = newDesc("cluster_nodes", "live nodes of the cluster, this one included")
	clusterOpenDesc     = newDesc("cluster_open_breakers", "breakers that are open for the cluster")
	clusterWaitingDesc  = newDesc("cluster_waiting_events", "events that the cluster's store does not have yet")
	clusterLagDesc      = newDesc("cluster_lag_seconds", "time since the last exchange with the cluster's store")
	clusterTookDesc     = newDesc("cluster_exchange_seconds", "time of the last exchange with the cluster's store")
	clusterExchangeDesc = newDesc("cluster_exchanges_total", "exchanges with the cluster's store", "result")
	clusterTimesDesc    = newDesc("cluster_alone_total", "times that the cluster's store could not be reached any more")
	clusterSentDesc     = newDesc("cluster_sent_total", "operations sent to the cluster's store")
	clusterReceivedDesc = newDesc("cluster_received_total", "records received from the cluster's store")
	clusterDroppedDesc  = newDesc("cluster_dropped_total", "events that were not shared, because too many waited")
	clusterLeasesDesc   = newDesc("cluster_leases_total", "leases of probes that this gateway got")
	clusterFencedDesc   = newDesc("cluster_fenced_total", "results of probes that came after the end of their lease")
	clusterUploadsDesc  = newDesc("cluster_uploads", "uploaded plugins of the cluster, by their state here", "state")
	clusterFollowedDesc = newDesc("cluster_followed_total", "openings of breakers here because the cluster opened them")
	clusterLimitsDesc   = newDesc("cluster_shared_limits", "limits of users and proxies in use here that nodes share")
	clusterShortDesc    = newDesc("cluster_short_limits",
		"of these, limits of which this gateway has used its whole part")
	clusterDrawsDesc = newDesc("cluster_draws_total", "times that this gateway asked for a part of a shared limit")
)

// collect sends the metrics of the cluster.
func (s *ClusterState) collect(out chan<- prometheus.Metric) {
	number := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	emit(out, clusterAloneDesc, prometheus.GaugeValue, number(s.Alone))
	emit(out, clusterIsolatedDesc, prometheus.GaugeValue, number(s.Isolated))
	emit(out, clusterNodesDesc, prometheus.GaugeValue, float64(s.Nodes))
	emit(out, clusterOpenDesc, prometheus.GaugeValue, float64(s.OpenBreakers))
	emit(out, clusterWaitingDesc, prometheus.GaugeValue, float64(s.WaitingEvents))
	if s.Lag >= 0 {
		emit(out, clusterLagDesc, prometheus.GaugeValue, s.Lag.Seconds())
	}
	emit(out, clusterTookDesc, prometheus.GaugeValue, s.ExchangeTime.Seconds())
	emit(out, clusterExchangeDesc, prometheus.CounterValue, float64(s.Exchanges), "ok")
	emit(out, clusterExchangeDesc, prometheus.CounterValue, float64(s.Failures), "failed")
	emit(out, clusterTimesDesc, prometheus.CounterValue, float64(s.TimesAlone))
	emit(out, clusterSentDesc, prometheus.CounterValue, float64(s.Sent))
	emit(out, clusterReceivedDesc, prometheus.CounterValue, float64(s.Received))
	emit(out, clusterDroppedDesc, prometheus.CounterValue, float64(s.DroppedEvents))
	emit(out, clusterLeasesDesc, prometheus.CounterValue, float64(s.Leases))
	emit(out, clusterFencedDesc, prometheus.CounterValue, float64(s.FencedResults))
	emit(out, clusterLimitsDesc, prometheus.GaugeValue, float64(s.Limits))
	emit(out, clusterShortDesc, prometheus.GaugeValue, float64(s.ShortLimits))
	emit(out, clusterDrawsDesc, prometheus.CounterValue, float64(s.ShareRequests))
	emit(out, clusterFollowedDesc, prometheus.CounterValue, float64(s.FollowedOpenings))
	for state, count := range s.Uploads {
		emit(out, clusterUploadsDesc, prometheus.GaugeValue, float64(count), state)
	}
}
