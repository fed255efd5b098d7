package evidence

import (
	"cmp"
	"strings"
)

// TargetRank is the rank of a target in a list: suspect targets first, then by the number of failures and by name.
type TargetRank struct {
	Suspect  bool
	Failures int
	Name     string
}

// Rank returns the rank of the target.
func (v *TargetView) Rank() TargetRank { return TargetRank{v.Suspect, v.Failures, v.Name} }

// Compare returns a negative number if r comes before other in the list.
func (r TargetRank) Compare(other TargetRank) int {
	switch {
	case r.Suspect && !other.Suspect:
		return -1
	case other.Suspect && !r.Suspect:
		return 1
	}
	return cmp.Or(cmp.Compare(other.Failures, r.Failures), strings.Compare(r.Name, other.Name))
}
