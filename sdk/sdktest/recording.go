package sdktest

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"io"

	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
)

// Recording holds the events that a gateway has sent to its plugins, in order.
type Recording []Event

// Event is one event for a plugin: a choice for a scorer (Request and Candidates), the input of a backoff
// (Backoff), or a finished attempt (Observation).
type Event struct {
	Request     *abi.RankRequest    `json:",omitempty"`
	Candidates  []abi.Candidate     `json:",omitempty"`
	Backoff     *abi.BackoffRequest `json:",omitempty"`
	Observation *abi.Observation    `json:",omitempty"`
}

//go:embed recording.json
var recorded []byte

// Recorded returns the events of 50 requests for three hosts through six proxies. Three proxies are good, one is
// slow, one fails a third of its attempts, and one is dead.
func Recorded() Recording {
	var r Recording
	if err := json.Unmarshal(recorded, &r); err != nil {
		panic(err) // cannot fail: the recording is embedded
	}
	return r
}

// Read reads a recording: a JSON array of events whose fields have the names of the Go fields.
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
