package top

import (
	"errors"
	"strings"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/stretchr/testify/require"
)

var noon = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

// snapshot returns three proxies, n seconds after noon.
func snapshot(n int, uses ...uint64) *Snapshot {
	s := &Snapshot{At: noon.Add(time.Duration(n) * time.Second), Gateway: "h:1", Requests: 200, Served: 199,
		Attempts: 230 + 10*uint64(n), Total: 3, States: map[string]int{"closed": 2, "open": 1, "banned": 0},
		Rows: []Row{
			{ID: "a", State: "closed", Region: "DE", Success: 1, Samples: 10, Latency: 30 * time.Millisecond},
			{ID: "b", State: "open", Region: "US", Success: 0.25, Samples: 8, Latency: 10 * time.Millisecond,
				Attention: 5},
			{ID: "c", State: "closed", Region: "US", InFlight: 3},
		}}
	for i, n := range uses {
		s.Rows[i].Uses = n
	}
	return s
}

// keys sends keys to a model.
func keys(t *testing.T, m tea.Model, names ...string) Model {
	for _, name := range names {
		msg := tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune(name)}
		for _, k := range []tea.KeyType{tea.KeyUp, tea.KeyDown, tea.KeyLeft, tea.KeyRight, tea.KeyEnter, tea.KeyEsc,
			tea.KeyPgUp, tea.KeyPgDown, tea.KeyHome, tea.KeyEnd, tea.KeyBackspace} {
			if k.String() == name {
				msg = tea.KeyMsg{Type: k}
			}
		}
		m, _ = m.Update(msg)
	}
	return m.(Model)
}

// order returns the ids of the rows on the screen.
func order(m Model) string {
	ids := ""
	for i := m.firstRow; i < len(m.rows) && i < m.firstRow+m.rowCount(); i++ {
		ids += m.rows[i].ID
	}
	return ids
}

func started(t *testing.T, s *Snapshot) Model {
	m, next := New(func(Query) (*Snapshot, error) { return s, nil }, time.Second, "proxy").Update(fetchMsg{s, nil})
	require.NotNil(t, next, "the next fetch is scheduled")
	return m.(Model)
}

func TestSortAndFilter(t *testing.T) {
	m := started(t, snapshot(0, 5, 9, 7))
	require.Equal(t, "abc", order(m))
	for _, step := range []struct{ column, want string }{
		{"state", "bac"}, {"region", "abc"}, {"in_flight", "cab"}, {"per_s", "abc"}, {"uses", "bca"},
		{"success", "bac"}, {"latency", "abc"}, {"proxy", "abc"},
	} {
		m = keys(t, m, "right")
		require.Equal(t, step.column, Columns()[m.sortColumn])
		require.Equal(t, step.want, order(m), step.column)
	}
	m = keys(t, m, "left", "r")
	require.Equal(t, "cba", order(m), "the smallest latency first")
	m = keys(t, m, "r", "/", "u", "S")
	require.Equal(t, "bc", order(m))
	require.Contains(t, m.View(), "filter: uS_")
	m = keys(t, m, "backspace", "backspace", "o", "p", "enter")
	require.Equal(t, "b", order(m))
	require.Contains(t, m.View(), "filter op")
	m = keys(t, m, "/", "q", "esc")
	require.Equal(t, "abc", order(m), "q is a letter of the filter, and esc removes it")
	m = keys(t, m, "/cl")
	require.Equal(t, "ac", order(m), "keys that arrive together")
}

// The rates come from two snapshots. A proxy that was added again, with a smaller number of uses, has no rate.
func TestRates(t *testing.T) {
	m := started(t, snapshot(0, 5, 9, 7))
	next, _ := m.Update(fetchMsg{snapshot(2, 25, 9, 1), nil})
	m = next.(Model)
	require.Equal(t, []float64{10, 0, 0}, []float64{m.rows[0].Rate, m.rows[1].Rate, m.rows[2].Rate})
	require.Contains(t, m.View(), "3 proxies, 2 closed, 1 open; 10.0 attempts per second")
	require.Contains(t, m.View(), "200 requests, 99.50 % delivered, 1.25 attempts each")
	require.Regexp(t, `b +open +US +0 +0\.0 +9 +25\.0 % +10 ms`, m.View())

	next, _ = m.Update(fetchMsg{&Snapshot{At: noon, Requests: 1e6, Served: 1e6 - 1}, nil})
	require.Contains(t, next.View(), "1000000 requests, 99.99 % delivered", "rounded down")

	m = keys(t, m, "p")
	next, _ = m.Update(fetchMsg{snapshot(3, 99, 9, 1), nil})
	require.Contains(t, next.View(), "PAUSED")
	require.Equal(t, uint64(25), next.(Model).rows[0].Uses)
}

func TestFailures(t *testing.T) {
	fail := errors.New("no response")
	m, next := New(func(Query) (*Snapshot, error) { return nil, fail }, time.Second, "none").Update(tickMsg{})
	require.Equal(t, fetchMsg{nil, fail}, next())
	require.Contains(t, m.View(), "reading the state")
	m, _ = m.Update(fetchMsg{nil, fail})
	require.Contains(t, m.View(), "no connection: no response")
	m, _ = m.Update(fetchMsg{snapshot(0), nil})
	require.NotContains(t, m.View(), "no response")
	m, again := m.Update(fetchMsg{nil, fail})
	require.Contains(t, m.View(), "NO CONNECTION: no response")
	require.NotNil(t, again, "the next fetch is scheduled")
}

// The selected row stays on the screen and on its proxy.
func TestScrolling(t *testing.T) {
	s := &Snapshot{At: noon}
	for _, id := range strings.Split("abcdefghijklmnopqrstuvwxyz", "") {
		s.Rows = append(s.Rows, Row{ID: id, State: "closed"})
	}
	m, _ := started(t, s).Update(tea.WindowSizeMsg{Width: 40, Height: 4 + footLines + 5})
	require.Equal(t, "abcde", order(m.(Model)))
	for _, step := range []struct{ key, screen, selected string }{
		{"up", "abcde", "a"}, {"down", "abcde", "b"}, {"pgdown", "cdefg", "g"}, {"j", "defgh", "h"}, {"k", "defgh",
			"g"},
		{"end", "vwxyz", "z"}, {"pgdown", "vwxyz", "z"}, {"pgup", "uvwxy", "u"}, {"r", "fedcb", "u"}, {"home",
			"zyxwv", "z"},
	} {
		m = keys(t, m, step.key)
		model := m.(Model)
		require.Equal(t, step.selected, model.rows[model.selected].ID, step.key)
		if step.key != "r" {
			require.Equal(t, step.screen, order(model), step.key)
		}
		require.LessOrEqual(t, model.firstRow, model.selected)
		require.Less(t, model.selected, model.firstRow+5)
		lines := strings.Split(model.View(), "\n")
		require.Len(t, lines, 4+footLines+5)
		for _, line := range lines {
			require.LessOrEqual(t, len([]rune(line)), 40)
		}
	}
	m = keys(t, m, "/", "b")
	require.Equal(t, 0, m.(Model).selected, "the selected proxy is filtered out")
	_, quit := m.(Model).handleTableKey(tea.KeyMsg{Type: tea.KeyCtrlC})
	require.Equal(t, tea.Quit(), quit())
}

// On a screen of 80 columns each column is whole, and there is room for an address and a port.
func TestTheWidthOfTheScreen(t *testing.T) {
	s := snapshot(0, 123456, 9, 7)
	s.Rows[0].ID, s.Rows[1].ID = "203.0.113.10:8080", "a-long-name-"+strings.Repeat("x", 40)
	s.Rows[1].State = "half-open"
	m, _ := started(t, s).Update(tea.WindowSizeMsg{Width: 80, Height: 20})
	require.Contains(t, m.View(), "203.0.113.10:8080 closed    DE      0          0.0    123456   100.0 %  30 ms")
	require.Contains(t, m.View(), "a-long-name-xxxx… half-open US ")
	for i := range columns {
		m = keys(t, m, "right")
		require.Contains(t, m.View(), columns[(i+1)%len(columns)].title+"▼")
	}
	m, _ = m.Update(tea.WindowSizeMsg{Width: 200, Height: 20})
	require.Contains(t, m.View(), "a-long-name-"+strings.Repeat("x", 27)+"… half-open US ")
}

// A narrow screen leaves out whole columns, but not the column by which the table is sorted. The summary has several
// lines there.
func TestANarrowScreen(t *testing.T) {
	s := snapshot(0, 5, 9, 7)
	s.Summary = "37 of 412 proxies fail, 31 of them with 403 at shop.example; 96 % delivered in the last 5 minutes"
	m, _ := started(t, s).Update(tea.WindowSizeMsg{Width: 60, Height: 24})
	require.Contains(t, m.View(), "\n37 of 412 proxies fail, 31 of them with 403 at shop.example;\n"+
		"96 % delivered in the last 5 minutes\nPROXY▼            STATE     REGION  PER S  SUCCESS  LATENCY \n"+
		"a                 closed    DE      0.0    100.0 %  30 ms")
	m, _ = m.Update(tea.WindowSizeMsg{Width: 40, Height: 24})
	require.Contains(t, m.View(), "\nPROXY▼       STATE     SUCCESS  LATENCY ")
	require.Contains(t, m.View(), "1 open; 0.0 attemp…\n")
	m = keys(t, m, "right", "right", "right", "right", "right")
	require.Contains(t, m.View(), "\nPROXY        STATE     USES▼    SUCCESS")
	for _, size := range []tea.WindowSizeMsg{{Width: 60, Height: 24}, {Width: 30, Height: 12}, {Width: 1, Height: 8}} {
		m, _ = m.Update(size)
		lines := strings.Split(m.View(), "\n")
		require.Len(t, lines, size.Height)
		for _, line := range lines {
			require.LessOrEqual(t, len([]rune(line)), size.Width)
		}
	}
}
