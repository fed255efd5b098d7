package upstream

import (
	"fmt"
	"slices"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// MaxTags is the maximum number of tags of a proxy.
const MaxTags = 32

// checkTags calls bad with the index of each wrong tag and a message.
func checkTags(tags []string, bad func(index int, msg string)) {
	if len(tags) > MaxTags {
		bad(MaxTags, fmt.Sprintf("is one too many; at most %d are allowed", MaxTags))
		return
	}
	for i, tag := range tags {
		if err := core.CheckTag(tag); err != nil {
			bad(i, fmt.Sprintf("is %q; it %v", tag, err))
		} else if slices.Contains(tags[:i], tag) {
			bad(i, fmt.Sprintf("is %q, which appears twice", tag))
		}
	}
}

// hashTags returns the core.Hash53 of each tag; nil without tags.
func hashTags(tags []string) *[]float64 {
	if len(tags) == 0 {
		return nil
	}
	hashes := make([]float64, len(tags))
	for i, tag := range tags {
		hashes[i] = core.Hash53(tag)
	}
	return &hashes
}

// HasTag reports whether the proxy has the tag with the given core.Hash53.
func (u *Upstream) HasTag(hash float64) bool {
	tags := u.tags.Load()
	return tags != nil && slices.Contains(*tags, hash)
}

// Tag returns the proxies with the tag that has the given core.Hash53, or nil.
func (s *Snapshot) Tag(hash float64) *Group { return s.tags[hash] }

// addToTags adds u to the group of each of its tags.
func (s *Snapshot) addToTags(u *Upstream, list func(*Group) *[]*Upstream) {
	tags := u.tags.Load()
	if tags == nil {
		return
	}
	for _, hash := range *tags {
		if s.tags == nil {
			s.tags = map[float64]*Group{}
		}
		if s.tags[hash] == nil {
			s.tags[hash] = &Group{}
		}
		all := list(s.tags[hash])
		*all = append(*all, u)
	}
}

// DirectID is the id of Pool.Direct in records of attempts.
const DirectID = "direct"

// Direct returns the Upstream direct://, for requests that a rule sends to their targets without a proxy. It is not
// among the proxies of a Snapshot. Its breaker stays closed, because failures of attempts without a proxy are charged
// to the target.
func (p *Pool) Direct() *Upstream { return p.direct }
