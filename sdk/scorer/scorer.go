// Package scorer makes a plugin a scorer. Import it only in a scorer: the import makes the module export the function
// "score".
package scorer

import "github.com/whirlpool-proxy/whirlpool/sdk/abi"

// Scorer ranks proxies.
type Scorer interface {
	// Score sets scores[i] to the score of candidates[i]. A higher score is better; each score must be finite.
	// There is at least one candidate. scores has one element per candidate; all elements are 0 before the
	// call. If several candidates have equal scores, the one with the fewest attempts in flight is chosen. The
	// host owns the memory of all three arguments: do not keep them after the call, and write only to scores.
	Score(req *abi.RankRequest, candidates []abi.Candidate, scores []float64)
}

//lint:ignore U1000 the export reads it
var plugin Scorer

// Register sets the module's scorer. Call it from an init function: the host does not run main.
func Register(s Scorer) { plugin = s }
