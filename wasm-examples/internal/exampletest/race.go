//go:build race

package exampletest

// raceEnabled is set if the race detector is on.
const raceEnabled = true
