package access

import (
	"iter"

	"github.com/whirlpool-proxy/whirlpool/core/traffic"
)

// SavedUsage is the usage of a user on one day, in the form in which a file stores it.
type SavedUsage struct {
	Name     string `json:"name"`
	Day      int64  `json:"day"` // in days since the Unix epoch (UTC)
	Requests int64  `json:"requests"`
	Bytes    int64  `json:"bytes"`
}

// Costs returns the bytes, attempts and costs of the users, in the order of the configuration. It leaves out users
// without bytes, attempts and costs.
func (u *Users) Costs() iter.Seq2[string, traffic.Total] {
	return func(yield func(string, traffic.Total) bool) {
		for _, a := range u.all {
			if t := a.Usage.Meter.Total(); t != (traffic.Total{}) && !yield(a.Name, t) {
				return
			}
		}
	}
}

// RestoreCosts adds the costs that a user had in an earlier process.
func (u *Users) RestoreCosts(name string, t traffic.Total) {
	if a := u.byDigest(u.digester.digest(name)); a != nil {
		a.Usage.Meter.Add(t)
	}
}

// SavedUsages returns the usage of each user who has sent a request since the process started or whose usage was
// restored.
func (u *Users) SavedUsages() []SavedUsage {
	var out []SavedUsage
	for _, a := range u.all {
		if used := a.Usage.savedUsage(); used.Day > 0 {
			used.Name = a.Name
			out = append(out, used)
		}
	}
	return out
}

func (u *Usage) savedUsage() SavedUsage {
	u.mu.Lock() // no day can begin between the loads
	defer u.mu.Unlock()
	return SavedUsage{Day: u.day.Load(), Requests: u.requests.Load(), Bytes: u.bytes.Load()}
}

// Restore sets the usage of the users to their usage in an earlier process. It must be called before any request.
func (u *Users) Restore(used []SavedUsage) {
	for _, d := range used {
		a := u.byDigest(u.digester.digest(d.Name))
		if a == nil || d.Day <= 0 || d.Requests < 0 || d.Bytes < 0 {
			continue
		}
		a.Usage.day.Store(d.Day)
		a.Usage.requests.Store(d.Requests)
		a.Usage.bytes.Store(d.Bytes)
	}
}
