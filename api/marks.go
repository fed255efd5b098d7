package api

import (
	"sync"
	"time"
)

const maxMarks = 500

// markStart is the type of the first mark. The type of any other mark is the type of the event that the same change
// caused, such as eventReload.
const markStart = "start"

// marks are changes that may explain a change in the history of requests (GET /metrics/history): the start, activations
// of plugins, changes of the policy, and reloads. They are kept here because the event stream soon drops them in favour
// of newer events.
type marks struct {
	mu    sync.Mutex // guards the fields below
	list  []markView
	total uint64 // number of all marks
}

type markView struct {
	At   time.Time `json:"at"`
	Type string    `json:"type"`
	Text string    `json:"text"`
}

func (e *Events) addMark(kind, text string) {
	m := &e.marks
	m.mu.Lock()
	defer m.mu.Unlock()
	m.list = append(m.list, markView{e.now().UTC(), kind, text})
	m.total++
	if len(m.list) > maxMarks {
		m.list = append([]markView{}, m.list[1:]...)
	}
}

// marksSince returns the marks that are at most d old.
func (e *Events) marksSince(d time.Duration) []markView {
	m, start := &e.marks, e.now().Add(-d)
	m.mu.Lock()
	defer m.mu.Unlock()
	out := []markView{}
	for _, v := range m.list {
		if !v.At.Before(start) {
			out = append(out, v)
		}
	}
	return out
}

// count returns the number of all marks since the start.
func (m *marks) count() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.total
}
