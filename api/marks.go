package api

import (
	"sync"
	"time"
)

// maxMarks is the maximum number of marks that are kept.
const maxMarks = 500

// markStart is the kind of the first mark. The kind of each other mark is a type of events, such as eventReload.
const markStart = "start"

// marks are the latest changes that may explain a change in the history of requests (GET /metrics/history): the
// start, activations of plugins, changes of the policy, and reloads. They are kept apart from the event stream, so
// that events of other types do not displace them.
type marks struct {
	mu   sync.Mutex
	list []markView
}

// markView is the JSON of one mark.
type markView struct {
	At   time.Time `json:"at"`
	Type string    `json:"type"`
	Text string    `json:"text"`
}

func (e *Events) mark(kind, text string) {
	m := &e.marks
	m.mu.Lock()
	defer m.mu.Unlock()
	m.list = append(m.list, markView{e.now().UTC(), kind, text})
	if len(m.list) > maxMarks {
		m.list = append([]markView{}, m.list[1:]...)
	}
}

// changesSince returns the marks of the last duration d, the oldest first.
func (e *Events) changesSince(d time.Duration) []markView {
	m, begin := &e.marks, e.now().Add(-d)
	m.mu.Lock()
	defer m.mu.Unlock()
	out := []markView{}
	for _, v := range m.list {
		if !v.At.Before(begin) {
			out = append(out, v)
		}
	}
	return out
}
