package workload

// Job is a workload with the variants that run it.
type Job struct {
	Workload *Workload
	Variants []string // names of Variants, ObserverName or OracleName
}

// PartsLevel is the level of faults (Kind.Levels) in the runs of Parts.
const PartsLevel = 0.2

// The requests per second of the workloads of SC-002: 2.5 and 0.05 for each of the eight proxies.
const (
	HotRate  = 20.0
	ColdRate = 0.4
)

// NoiseLevels are shares of attempts that fail at random. For each level, SC-002 measures the capacity that a healthy
// pool loses because its breakers open.
func NoiseLevels() []float64 { return []float64{0.01, 0.02, 0.05} }

// NoiseRate is the number of requests per second of the workloads for NoiseLevels.
const NoiseRate = 200.0

// Jobs returns all runs in virtual time, in the order of the criteria. It lists each workload once.
func Jobs(c Catalog) (jobs []Job) {
	all := append([]string{Default}, append(Parts(), Single, Rotation, ObserverName, OracleName)...)
	curve := []string{Default, Single, Rotation, ObserverName, OracleName}
	for _, k := range Kinds() {
		for _, level := range k.Levels {
			variants := curve
			if level == PartsLevel {
				variants = all
			}
			jobs = append(jobs, Job{k.Make(c, level), variants})
		}
	}
	for _, fails := range FailingRates() {
		jobs = append(jobs, Job{c.TwoFailing(fails, HotRate, 10_000), all},
			Job{c.TwoFailing(fails, ColdRate, 4000), all})
	}
	for _, fails := range NoiseLevels() {
		jobs = append(jobs, Job{c.Noise(fails, NoiseRate), []string{Default}})
	}
	for _, w := range c.WaitWorkloads() {
		jobs = append(jobs, Job{w, all})
	}
	jobs = append(jobs, Job{c.FailingInTurn(), []string{Default, "no reachability checks"}})
	for _, w := range c.ChoiceWorkloads() {
		jobs = append(jobs, Job{w, []string{Default, "no breakers", "random scorers", Single, Rotation, ObserverName,
			OracleName}})
	}
	jobs = append(jobs, Job{c.DeadProxies(), all}, Job{c.EqualProxies(0.5), curve},
		Job{c.AllInFlight(), []string{Default}})
	for _, w := range SocketWorkloads(c) {
		jobs = append(jobs, Job{w, curve})
	}
	return uniqueJobs(jobs)
}

func uniqueJobs(jobs []Job) (kept []Job) {
	seen := map[string]bool{}
	for _, j := range jobs {
		if !seen[j.Workload.Name] {
			seen[j.Workload.Name] = true
			kept = append(kept, j)
		}
	}
	return kept
}
