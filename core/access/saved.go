package access

// Used is the usage of a user on one day, in the form in which a file stores it.
type Used struct {
	Name     string `json:"name"`
	Day      int64  `json:"day"` // in days since the Unix epoch (UTC)
	Requests int64  `json:"requests"`
	Bytes    int64  `json:"bytes"`
}

// Used returns the usage of each user who has sent a request since the process started or whose usage was restored.
func (u *Users) Used() []Used {
	var out []Used
	for _, a := range u.all {
		if used := a.Usage.used(); used.Day > 0 {
			used.Name = a.Name
			out = append(out, used)
		}
	}
	return out
}

func (u *Usage) used() Used {
	u.mu.Lock() // so that no new day begins between the following loads
	defer u.mu.Unlock()
	return Used{Day: u.day.Load(), Requests: u.requests.Load(), Bytes: u.bytes.Load()}
}

// Restore sets the usage to that of an earlier process. It must be called before any request. It skips names that are
// not users.
func (u *Users) Restore(used []Used) {
	for _, d := range used {
		a := u.get(u.digester.digest(d.Name))
		if a == nil || d.Day <= 0 || d.Requests < 0 || d.Bytes < 0 {
			continue
		}
		a.Usage.day.Store(d.Day)
		a.Usage.requests.Store(d.Requests)
		a.Usage.bytes.Store(d.Bytes)
	}
}
