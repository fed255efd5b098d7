package upstream

import (
	"cmp"
	"hash/maphash"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// AssignIDs gives an id to each spec without one. The id is the same in every process: host:port, or the text that
// Extras.IDTemplate makes. If several specs have the same host and port (or text), the second gets host:port-2, the
// third host:port-3 and so on.
func AssignIDs(specs []Spec) { assignIDs(specs, func(string) bool { return false }) }

// assignIDs gives an id to each spec without one. It uses no id for which the function reserved returns true.
func assignIDs(specs []Spec, reserved func(id string) bool) {
	if !slices.ContainsFunc(specs, hasNoID) {
		return
	}
	taken := make(map[string]struct{}, len(specs))
	for i := range specs {
		if specs[i].ID != "" {
			taken[specs[i].ID] = struct{}{}
		}
	}
	isFree := func(id string) bool {
		_, used := taken[id]
		return !used && !reserved(id)
	}
	last := map[string]int{} // the last number that was tried, by host:port
	for i := range specs {
		if specs[i].ID != "" {
			continue
		}
		base := specs[i].IDBase()
		id := base
		for !isFree(id) {
			last[base] = max(last[base], 1) + 1
			id = base + "-" + strconv.Itoa(last[base])
		}
		taken[id] = struct{}{}
		specs[i].ID = id
	}
}

func hasNoID(s Spec) bool { return s.ID == "" }

// A Fingerprint holds two hashes of an Address, by which addresses are compared. It does not contain the password.
type Fingerprint struct {
	Login uint64 `json:"login"` // of scheme, host and user name
	Exact uint64 `json:"exact"` // of scheme, host, user name and password
}

// KnownProxy describes an earlier proxy whose id NameSpecs may give to a spec.
type KnownProxy struct {
	Fingerprint
	ExactOnly bool // only a proxy with the same address may have the id
}

// KnownProxies are the earlier proxies of NameSpecs. It is not a map, because a map of a long list takes much memory.
type KnownProxies struct {
	Get func(id string) (k KnownProxy, known bool)
	IDs iter.Seq[string]
}

// KnownMap returns the earlier proxies in a map by id.
func KnownMap(m map[string]KnownProxy) KnownProxies {
	return KnownProxies{Get: func(id string) (KnownProxy, bool) { k, is := m[id]; return k, is }, IDs: maps.Keys(m)}
}

// NameSpecs gives an id to each spec without one: if possible, the id of an earlier proxy (known). The first of these
// rules that applies chooses the earlier proxy:
//
//   - the proxy with the same address;
//   - the proxy with the same scheme, host and user name: its password has probably changed;
//   - the only proxy with this host and port, if no other spec without an id has this host and port.
//
// With an Extras.IDTemplate, the text that it makes takes the place of host and port in the last rule.
//
// If no rule applies, the spec gets a new id in the form of AssignIDs. The new id is not reserved. With these
// rules, proxies with the same host and port keep their ids, breakers and statistics if one of them is added or
// removed, or if their order changes.
func NameSpecs(specs []Spec, known KnownProxies, print func(Address) Fingerprint,
	reserved func(id string) bool) {
	taken := map[string]struct{}{}
	count := make(map[string]int32, len(specs)) // specs without an id, by host:port or the text of their template
	for i := range specs {
		if s := &specs[i]; s.ID != "" {
			taken[s.ID] = struct{}{}
		} else {
			count[s.IDBase()]++
		}
	}
	ids := map[string][]string{} // ids in known, by host:port; without the ids that are equal to host:port
	for id := range known.IDs {
		if place := placeOf(id); place != id && count[place] > 0 && count[id] == 0 {
			if _, used := taken[id]; !used {
				ids[place] = append(ids[place], id)
			}
		}
	}
	same := map[string][]*Spec{} // specs without an id, by host:port
	for i := range specs {
		s := &specs[i]
		if s.ID != "" {
			continue
		}
		place := s.IDBase()
		k, isKnown := known.Get(place)
		_, used := taken[place]
		isKnown = isKnown && !used
		switch {
		case count[place] == 1 && isKnown && !k.ExactOnly && len(ids[place]) == 0: // the usual case in a long list
			s.ID = place
		case isKnown || len(ids[place]) > 0:
			same[place] = append(same[place], s)
		}
	}
	for place, list := range same {
		if _, isKnown := known.Get(place); isKnown {
			if _, used := taken[place]; !used {
				ids[place] = append(ids[place], place)
			}
		}
		keepIDs(list, ids[place], known, print)
	}
	assignIDs(specs, reserved)
}

// keepIDs gives the known ids of one host:port to the specs with this host:port.
func keepIDs(specs []*Spec, ids []string, known KnownProxies, print func(Address) Fingerprint) {
	if len(specs) == 1 && len(ids) == 1 {
		if k, _ := known.Get(ids[0]); !k.ExactOnly {
			specs[0].ID = ids[0]
			return
		}
	}
	slices.SortFunc(ids, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	prints := make([]Fingerprint, len(specs))
	for i, s := range specs {
		prints[i] = print(s.Address)
	}
	for _, exact := range []bool{true, false} {
		part := func(p Fingerprint) uint64 {
			if exact {
				return p.Exact
			}
			return p.Login
		}
		had := map[uint64][]string{}
		for _, id := range ids {
			if k, _ := known.Get(id); exact || !k.ExactOnly {
				had[part(k.Fingerprint)] = append(had[part(k.Fingerprint)], id)
			}
		}
		given := map[string]struct{}{}
		for i, s := range specs {
			if of := had[part(prints[i])]; s.ID == "" && len(of) > 0 {
				s.ID, had[part(prints[i])] = of[0], of[1:]
				given[s.ID] = struct{}{}
			}
		}
		ids = slices.DeleteFunc(ids, func(id string) bool { _, ok := given[id]; return ok })
	}
}

// placeOf returns the host:port, or the text of a template, from which AssignIDs may have made an id.
func placeOf(id string) string {
	i := strings.LastIndexByte(id, '-')
	if i <= strings.LastIndexByte(id, ':') {
		return id
	}
	if n, err := strconv.Atoi(id[i+1:]); err != nil || n < 2 {
		return id
	}
	return id[:i]
}

// nameAs returns specs with ids. A spec without an id gets the id of the same proxy in the pool, by the rules of
// NameSpecs. If the API has added the proxy, the spec gets its id only if the addresses are the same.
func nameAs(specs []Spec, pool *Snapshot) []Spec {
	if !slices.ContainsFunc(specs, hasNoID) {
		return specs
	}
	seed := maphash.MakeSeed()
	print := func(a Address) Fingerprint {
		exact := maphash.Comparable(seed, a)
		a.Password = ""
		return Fingerprint{Login: maphash.Comparable(seed, a), Exact: exact}
	}
	running := pool.specs()
	known := make(map[string]KnownProxy, len(running))
	for _, s := range running {
		known[s.ID] = KnownProxy{print(s.Address), s.Source == SourceAPI}
	}
	named := slices.Clone(specs)
	NameSpecs(named, KnownMap(known), print, func(id string) bool { return known[id].ExactOnly })
	return named
}
