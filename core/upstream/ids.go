package upstream

import (
	"slices"
	"strconv"
	"strings"
)

// AssignIDs gives an id to each spec without one. The id is the same in every process: host:port. If several
// specs have the same host and port, the second gets host:port-2, the third host:port-3 and so on.
func AssignIDs(specs []Spec) {
	taken := make(map[string]struct{}, len(specs))
	for i := range specs {
		if specs[i].ID != "" {
			taken[specs[i].ID] = struct{}{}
		}
	}
	next := map[string]int{}
	for i := range specs {
		if specs[i].ID != "" {
			continue
		}
		base := specs[i].Address.place()
		id := base
		for {
			next[base]++
			if n := next[base]; n > 1 {
				id = base + "-" + strconv.Itoa(n)
			}
			if _, used := taken[id]; !used {
				break
			}
		}
		taken[id] = struct{}{}
		specs[i].ID = id
	}
}

// Name returns specs with ids. A spec without an id gets the id that AssignIDs made for the proxy of pool with the
// same address. If pool has no such proxy, the spec gets a new id, which differs from those of the other specs and
// of the proxies of pool whose Source is SourceAPI. This way, proxies with the same host and port keep their ids,
// breakers and statistics when one of them is removed or their order changes.
func Name(specs, pool []Spec) []Spec {
	specs = slices.Clone(specs)
	keepIDs(specs, pool)
	taken := make(map[string]struct{}, len(specs))
	for i := range specs {
		taken[specs[i].ID] = struct{}{}
	}
	n := len(specs)
	for i := range pool {
		if _, used := taken[pool[i].ID]; !used && pool[i].Source == SourceAPI {
			specs = append(specs, pool[i])
		}
	}
	AssignIDs(specs)
	return specs[:n:n]
}

// keepIDs sets the ids of specs without an id to those that AssignIDs has made for the same addresses in the pool.
func keepIDs(specs, pool []Spec) {
	taken := make(map[string]struct{}, len(specs))
	for i := range specs {
		taken[specs[i].ID] = struct{}{}
	}
	had := make(map[Address][]string, len(pool))
	for i := range pool {
		if a := pool[i].Address; assigned(pool[i].ID, a.place()) {
			had[a] = append(had[a], pool[i].ID)
		}
	}
	for i := range specs {
		if specs[i].ID != "" {
			continue
		}
		for ids := had[specs[i].Address]; len(ids) > 0 && specs[i].ID == ""; {
			if _, used := taken[ids[0]]; !used {
				specs[i].ID = ids[0]
			}
			ids = ids[1:]
			had[specs[i].Address] = ids
		}
	}
}

// assigned reports whether AssignIDs may have made id from place.
func assigned(id, place string) bool {
	rest, ok := strings.CutPrefix(id, place)
	if !ok || rest == "" {
		return ok
	}
	n, err := strconv.Atoi(strings.TrimPrefix(rest, "-"))
	return err == nil && n > 1
}
