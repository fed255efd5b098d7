// Package tolerance sets the tolerance of a scorer: scores within the tolerance of the best score count as equal.
// Import it only in a scorer with a tolerance. In a scorer without one, only identical scores are equal.
package tolerance

// Tolerant is a scorer with a tolerance.
type Tolerant interface {
	// Tolerance returns a fraction of the best score, 0 to 1. If it is 0.02, scores within two percent of the
	// best score count as equal. It is called once, after the plugin has been configured.
	Tolerance() float64
}

//lint:ignore U1000 the export reads it
var plugin Tolerant

// Register sets the plugin's Tolerant. Call it from an init function: the host does not run main.
func Register(t Tolerant) { plugin = t }
