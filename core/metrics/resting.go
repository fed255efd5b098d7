package metrics

// ObserveResting sets the function that returns the number of resting pairs. It is called at each scrape.
func (r *Recorder) ObserveResting(resting func() int) {
	r.sources.mu.Lock()
	defer r.sources.mu.Unlock()
	r.sources.resting = resting
}

var restingDesc = desc("resting_pairs", "pairs of a proxy and a target host that refuses it, which rest")
