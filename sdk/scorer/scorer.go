// Package scorer makes a plugin a scorer. Import it for that only: the module
// then exports score.
package scorer

import "github.com/whirlpool-proxy/whirlpool/sdk/abi"

// Scorer ranks proxies.
type Scorer interface {
	// Score sets scores[i] for candidates[i]: the higher, the better; each must
	// be finite. There is at least one candidate, and a score for each, 0 to
	// begin with. All three arguments are the host's memory: keep none of them,
	// and write to scores only. Equal scores go to the proxy with the fewest
	// attempts in flight.
	Score(req *abi.RankRequest, candidates []abi.Candidate, scores []float64)
}

//lint:ignore U1000 the export reads it
var plugin Scorer

// Register names the module's scorer. Call it from an init function: the host
// does not run main.
func Register(s Scorer) { plugin = s }
