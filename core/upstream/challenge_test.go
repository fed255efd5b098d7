package upstream

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A 407 with a challenge is the target's if the proxy has served other targets, and another proxy gets the same
// challenge.
func TestChallengedByTarget(t *testing.T) {
	const target = "target.test:80"
	type event struct {
		proxy     int
		target    string
		challenge uint64 // 0 for a success
	}
	served := func(proxies ...int) (events []event) {
		for _, p := range proxies {
			events = append(events, event{p, "other.test:80", 0})
		}
		return events
	}
	for name, x := range map[string]struct {
		proxies int // default 3
		literal bool
		events  []event // the last one is a challenge
		want    bool
	}{
		"through one of several":   {events: append(served(0, 1), event{0, target, 7})},
		"through one proxy, twice": {events: append(served(0, 1), event{0, target, 7}, event{0, target, 7})},
		"through two": {events: append(served(0, 1), event{0, target, 7}, event{1, target, 7}),
			want: true},
		"again through the first": {events: append(served(0, 1), event{0, target, 7}, event{1, target, 7},
			event{0, target, 7}), want: true},
		"different challenges":      {events: append(served(0, 1), event{0, target, 7}, event{1, target, 8})},
		"no proxy has served":       {events: []event{{0, target, 7}, {1, target, 7}}},
		"this proxy has not served": {events: append(served(0), event{0, target, 7}, event{1, target, 7}), want: true},
		"the target serves the pool": {events: append(served(0, 1), event{2, target, 0}, event{0, target, 7},
			event{1, target, 7})},
		"at two targets": {events: append(served(0, 1), event{0, target, 7}, event{1, "second.test:80",
			7}, event{1, target, 7})},
		"at two targets, served then": {events: append(served(0, 1), event{0, target, 7}, event{1, "second.test:80",
			7}, event{1, "other.test:80", 0}, event{1, target, 7}), want: true},
		"at a third target": {events: append(served(0, 1), event{0, "second.test:80", 7}, event{0, target, 7},
			event{1, target, 7}, event{0, target, 7})},
		"a pool of one":             {proxies: 1, events: append(served(0), event{0, target, 7}), want: true},
		"a pool of one that is new": {proxies: 1, events: []event{{0, target, 7}}},
		"a pool of one, at two targets": {proxies: 1, events: append(served(0), event{0, "second.test:80", 7},
			event{0, target, 7})},
		"a pool of one, literal":         {proxies: 1, literal: true, events: append(served(0), event{0, target, 7})},
		"a pool of one that served this": {proxies: 1, events: []event{{0, target, 0}, {0, target, 7}}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, max(x.proxies, 3*(1-min(x.proxies, 1))))
			r.SetLiteral(x.literal)
			got := false
			for _, e := range x.events {
				r.now = r.now.Add(time.Millisecond)
				if e.challenge == 0 {
					r.at(r.get(e.proxy), e.target, true)
					continue
				}
				got = r.get(e.proxy).ChallengedByTarget(Target(e.target), e.challenge, r.Elapsed(r.now))
			}
			require.Equal(t, x.want, got)
		})
	}
}

// The failure that was charged to the first proxy leaves its statistics when the challenge proves to be the target's.
func TestAChallengeOfTheTargetIsWithdrawn(t *testing.T) {
	const target = "target.test:80"
	r := newRig(t, 2)
	r.SetLiteral(false)
	for i := range 2 {
		r.at(r.get(i), "other.test:80", true)
	}
	require.False(t, r.get(0).ChallengedByTarget(Target(target), 7, r.Elapsed(r.now)))
	r.at(r.get(0), target, false)
	require.Equal(t, 2, r.get(0).Stats().Samples)
	require.True(t, r.get(1).ChallengedByTarget(Target(target), 7, r.Elapsed(r.now)))
	require.Equal(t, 1, r.get(0).Stats().Samples)
}
