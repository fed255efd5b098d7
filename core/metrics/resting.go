package metrics

// ObserveResting sets the function that is called at each scrape for the number of resting pairs.
func (r *Recorder) ObserveResting(resting func() int) {
	r.sources.mu.Lock()
	defer r.sources.mu.Unlock()
	r.sources.resting = resting
}

var restingDesc = desc("resting_pairs", "pairs of a proxy and a target host that refuses it, which rest")
