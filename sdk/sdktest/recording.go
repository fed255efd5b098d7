package sdktest

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"io"

	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
)

// Recording is what a gateway told its plugins, in order.
type Recording []Event

// Event is one thing a plugin was told: a choice to make (Request and
// Candidates), a wait to give (Backoff), or how an attempt ended (Observation).
type Event struct {
	Request     *abi.RankRequest    `json:",omitempty"`
	Candidates  []abi.Candidate     `json:",omitempty"`
	Backoff     *abi.BackoffRequest `json:",omitempty"`
	Observation *abi.Observation    `json:",omitempty"`
}

//go:embed recording.json
var recorded []byte

// Recorded is 50 requests for three hosts through six proxies: three good
// ones, a slow one, one that fails a third of the time and a dead one.
func Recorded() Recording {
	var r Recording
	if err := json.Unmarshal(recorded, &r); err != nil {
		panic(err) // it comes with the package: cannot fail
	}
	return r
}

// Read reads a recording of your own: a JSON array of events, the fields named
// as in Go.
func Read(from io.Reader) (Recording, error) {
	d := json.NewDecoder(from)
	d.DisallowUnknownFields()
	var r Recording
	if err := d.Decode(&r); err != nil {
		return nil, fmt.Errorf("the recording: %w", err)
	}
	for i, e := range r {
		told := 0
		for _, is := range []bool{e.Request != nil && len(e.Candidates) > 0, e.Backoff != nil, e.Observation != nil} {
			if is {
				told++
			}
		}
		if told != 1 {
			return nil, fmt.Errorf("the recording: event %d must be one of Request with Candidates, Backoff or "+
				"Observation", i)
		}
	}
	return r, nil
}
