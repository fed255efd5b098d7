// Package tolerance lets a scorer say how near to the best a score counts as
// equal. Import it for that only; without it only equal is equal.
package tolerance

// Tolerant is a scorer with a tolerance.
type Tolerant interface {
	// Tolerance is a fraction of the best score, 0 to 1: with 0.02, scores
	// within two percent of the best count as equal. It is asked for once, after
	// the plugin has been configured.
	Tolerance() float64
}

//lint:ignore U1000 the export reads it
var plugin Tolerant

// Register names whose tolerance it is. Call it from an init function: the
// host does not run main.
func Register(t Tolerant) { plugin = t }
