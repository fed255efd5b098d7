// Package top shows the live table of proxies for the command `whirlpool top`. It is similar to top(1) and htop(1).
package top

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/lipgloss"
)

// Row is the row of one proxy in the table.
type Row struct {
	ID        string
	State     string
	Region    string
	InFlight  int
	Uses      uint64  // attempts since the start of the gateway
	Rate      float64 // attempts per second since the previous snapshot
	Success   float64 // share of successes among the last attempts, 0 to 1
	Samples   int     // number of the attempts that Success counts
	Latency   time.Duration
	Attention int // rank of State: a proxy with a larger rank needs more attention
}

// Snapshot is the state of the gateway at one time.
type Snapshot struct {
	At       time.Time
	Gateway  string         // address of the gateway
	Summary  string         // one sentence about failing proxies and delivered requests
	Rows     []Row          // the first rows of the Query; Rate is not set
	Total    int            // number of proxies of the pool
	States   map[string]int // number of proxies in each state
	Requests uint64         // number of requests in the hours for which the gateway keeps metrics
	Served   uint64         // requests that were delivered and that their target did not refuse
	Attempts uint64
}

// Query selects and sorts the proxies that a table shows.
type Query struct {
	Sort     string // an element of Columns
	Reversed bool
	Filter   string
}

// column describes a column of the table. The function compare determines the order of the rows when the table is
// sorted by this column.
type column struct {
	title   string
	width   int // width in characters; 0 for the first column, which has the rest of the screen
	text    func(*Row) string
	compare func(a, b *Row) int
}

var columns = []column{
	{"PROXY", 0, func(r *Row) string { return r.ID }, func(a, b *Row) int { return strings.Compare(a.ID, b.ID) }},
	{"STATE", 9, func(r *Row) string { return r.State },
		func(a, b *Row) int { return cmp.Compare(b.Attention, a.Attention) }},
	{"REGION", 7, func(r *Row) string { return cmp.Or(r.Region, "-") },
		func(a, b *Row) int { return strings.Compare(a.Region, b.Region) }},
	{"IN FLIGHT", 10, func(r *Row) string { return fmt.Sprint(r.InFlight) },
		func(a, b *Row) int { return cmp.Compare(b.InFlight, a.InFlight) }},
	{"PER S", 6, func(r *Row) string { return fmt.Sprintf("%.1f", r.Rate) },
		func(a, b *Row) int { return cmp.Compare(b.Rate, a.Rate) }},
	{"USES", 8, func(r *Row) string { return fmt.Sprint(r.Uses) },
		func(a, b *Row) int { return cmp.Compare(b.Uses, a.Uses) }},
	{"SUCCESS", 8, func(r *Row) string { return r.successText() },
		func(a, b *Row) int { return cmp.Compare(a.successForSort(), b.successForSort()) }},
	{"LATENCY", 8, func(r *Row) string { return fmt.Sprintf("%d ms", r.Latency.Milliseconds()) },
		func(a, b *Row) int { return cmp.Compare(b.Latency, a.Latency) }},
}

// hideOrder holds the indices of the columns that a narrow screen leaves out, in the order in which they are left out.
var hideOrder = []int{5, 3, 2, 4, 7, 1} // uses, in flight, region, per s, latency, state

// successForSort returns the share of successes by which the table is sorted. It is 1 for a proxy without attempts.
func (r *Row) successForSort() float64 {
	if r.Samples == 0 {
		return 1
	}
	return r.Success
}

func (r *Row) successText() string {
	if r.Samples == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f %%", 100*r.Success)
}

// Columns returns the titles of the columns in the form that Query.Sort and New take: in lower case, with "_" for a
// space.
func Columns() []string {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = strings.ReplaceAll(strings.ToLower(c.title), " ", "_")
	}
	return names
}

// Model is the state of the table. It is a tea.Model.
type Model struct {
	fetch    func(Query) (*Snapshot, error)
	interval time.Duration

	snapshot   *Snapshot // the last snapshot; nil before the first one
	rate       float64   // attempts per second between the last two snapshots
	fetchErr   error     // error of the last fetch; nil if it succeeded
	rows       []Row     // rows that match the filter, in the order of the table
	sortColumn int       // index in columns
	reversed   bool
	isPaused   bool
	isTyping   bool // the user types the filter
	filter     string
	selected   int // index in shown
	firstRow   int // index in shown of the first row on the screen
	width      int
	height     int
}

// New returns a table that calls fetch at its start, and again after each interval. The table is sorted by the column
// sortBy, an element of Columns.
func New(fetch func(Query) (*Snapshot, error), interval time.Duration, sortBy string) Model {
	return Model{fetch: fetch, interval: interval, sortColumn: max(0, slices.Index(Columns(), sortBy)), width: 100,
		height: 30}
}

type (
	tickMsg  struct{}
	fetchMsg struct {
		snapshot *Snapshot
		err      error
	}
)

// Init implements tea.Model.
func (m Model) Init() tea.Cmd { return m.fetchSnapshot }

func (m Model) fetchSnapshot() tea.Msg {
	s, err := m.fetch(Query{Columns()[m.sortColumn], m.reversed, m.filter})
	return fetchMsg{s, err}
}

// Update implements tea.Model.
func (m Model) Update(message tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := message.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
		m.scroll()
	case tickMsg:
		return m, m.fetchSnapshot
	case fetchMsg:
		m.fetchErr = msg.err
		if msg.err == nil && !m.isPaused {
			m.setSnapshot(msg.snapshot)
		}
		m.scroll() // the text of an error takes lines of the list
		return m, tea.Tick(m.interval, func(time.Time) tea.Msg { return tickMsg{} })
	case tea.KeyMsg:
		if len(msg.Runes) < 2 {
			return m.handleKey(msg)
		}
		var model tea.Model = m
		var quit tea.Cmd
		for _, letter := range msg.Runes { // keys that the user presses fast arrive in one message
			msg.Runes = []rune{letter}
			if model, quit = model.(Model).handleKey(msg); quit != nil {
				break
			}
		}
		return model, quit
	}
	return m, nil
}

func (m Model) handleKey(msg tea.KeyMsg) (tea.Model, tea.Cmd) {
	if m.isTyping {
		return m.handleFilterKey(msg), nil
	}
	return m.handleTableKey(msg)
}

// setSnapshot shows s, with the rates since the previous snapshot.
func (m *Model) setSnapshot(s *Snapshot) {
	previousUses := map[string]uint64{}
	seconds := 0.0
	if m.snapshot != nil {
		seconds = s.At.Sub(m.snapshot.At).Seconds()
		for i := range m.snapshot.Rows {
			previousUses[m.snapshot.Rows[i].ID] = m.snapshot.Rows[i].Uses
		}
	}
	for i := range s.Rows {
		r := &s.Rows[i]
		if uses, known := previousUses[r.ID]; known && r.Uses >= uses && seconds > 0 {
			r.Rate = float64(r.Uses-uses) / seconds
		}
	}
	if m.snapshot != nil && seconds > 0 && s.Attempts >= m.snapshot.Attempts {
		m.rate = float64(s.Attempts-m.snapshot.Attempts) / seconds
	}
	m.snapshot = s
	m.sortRows()
}

// sortRows filters and sorts the rows. The selected proxy stays selected.
func (m *Model) sortRows() {
	id := ""
	if m.selected < len(m.rows) {
		id = m.rows[m.selected].ID
	}
	m.rows = nil
	if m.snapshot == nil {
		return
	}
	for _, r := range m.snapshot.Rows {
		if strings.Contains(strings.ToLower(r.ID+" "+r.State+" "+r.Region), strings.ToLower(m.filter)) {
			m.rows = append(m.rows, r)
		}
	}
	compare := columns[m.sortColumn].compare
	slices.SortFunc(m.rows, func(a, b Row) int {
		c := compare(&a, &b)
		if m.reversed {
			c = -c
		}
		return cmp.Or(c, strings.Compare(a.ID, b.ID))
	})
	if i := slices.IndexFunc(m.rows, func(r Row) bool { return r.ID == id }); i >= 0 {
		m.selected = i
	}
	m.scroll()
}

// footLines is the number of lines below the rows of the table.
const footLines = 2

// headLines returns the number of lines above the rows of the table.
func (m *Model) headLines() int { return 3 + len(m.reasonLines()) }

// rowCount returns the number of table rows on the screen.
func (m *Model) rowCount() int { return max(1, m.height-m.headLines()-footLines) }

// scroll moves the selection into the table, and scrolls so that the selected row is on the screen.
func (m *Model) scroll() {
	m.selected = max(0, min(m.selected, len(m.rows)-1))
	m.firstRow = max(0, min(m.firstRow, m.selected, len(m.rows)-m.rowCount()))
	m.firstRow = max(m.firstRow, m.selected-m.rowCount()+1)
}

func (m Model) handleTableKey(msg tea.KeyMsg) (tea.Model, tea.Cmd) {
	switch msg.String() {
	case "q", "ctrl+c", "esc":
		return m, tea.Quit
	case "up", "k":
		m.selected--
	case "down", "j":
		m.selected++
	case "pgup":
		m.selected -= m.rowCount()
	case "pgdown":
		m.selected += m.rowCount()
	case "home", "g":
		m.selected = 0
	case "end", "G":
		m.selected = len(m.rows)
	case "left", "<":
		m.sortColumn = (m.sortColumn + len(columns) - 1) % len(columns)
		m.sortRows()
	case "right", ">":
		m.sortColumn = (m.sortColumn + 1) % len(columns)
		m.sortRows()
	case "r":
		m.reversed = !m.reversed
		m.sortRows()
	case " ", "p":
		m.isPaused = !m.isPaused
	case "/":
		m.isTyping = true
	}
	m.scroll()
	return m, nil
}

func (m Model) handleFilterKey(msg tea.KeyMsg) Model {
	switch msg.Type {
	case tea.KeyEnter:
		m.isTyping = false
	case tea.KeyEsc, tea.KeyCtrlC:
		m.isTyping, m.filter = false, ""
	case tea.KeyBackspace:
		if letters := []rune(m.filter); len(letters) > 0 {
			m.filter = string(letters[:len(letters)-1])
		}
	case tea.KeyRunes, tea.KeySpace:
		m.filter += string(msg.Runes)
	}
	m.sortRows()
	return m
}

var (
	titleStyle    = lipgloss.NewStyle().Bold(true)
	selectedStyle = lipgloss.NewStyle().Reverse(true)
	openStyle     = lipgloss.NewStyle().Foreground(lipgloss.Color("1"))
	halfStyle     = lipgloss.NewStyle().Foreground(lipgloss.Color("3"))
	dimStyle      = lipgloss.NewStyle().Faint(true)
)

// View implements tea.Model.
func (m Model) View() string {
	if m.snapshot == nil {
		if m.fetchErr != nil {
			return "no connection: " + m.fetchErr.Error() + "\nq quits\n"
		}
		return "reading the state of the gateway ...\n"
	}
	lines := append([]string{m.summaryLine(), m.countsLine()}, m.reasonLines()...)
	lines = append(lines, titleStyle.Render(m.formatCells(m.titles())))
	for i := m.firstRow; i < len(m.rows) && i < m.firstRow+m.rowCount(); i++ {
		lines = append(lines, m.rowLine(i))
	}
	for len(lines) < m.headLines()+m.rowCount() {
		lines = append(lines, "")
	}
	return strings.Join(append(lines, "", m.footer()), "\n")
}

func (m Model) summaryLine() string {
	s := m.snapshot
	text := fmt.Sprintf("whirlpool %s  %s", s.Gateway, s.At.Local().Format(time.TimeOnly))
	if s.Requests > 0 {
		requests := "requests"
		if s.Requests == 1 {
			requests = "request"
		}
		text += fmt.Sprintf("  %d %s, %.2f %% delivered, %.2f attempts each", s.Requests, requests,
			float64(10_000*s.Served/s.Requests)/100, float64(s.Attempts)/float64(s.Requests))
	}
	if m.isPaused {
		text += "  PAUSED"
	}
	return m.cutLine(text)
}

// reasonLines returns the error of the last fetch or, if it succeeded, the summary. On a narrow screen the text has
// several lines, at most a quarter of the screen.
func (m Model) reasonLines() []string {
	switch {
	case m.fetchErr != nil:
		return m.wrapText("NO CONNECTION: " + m.fetchErr.Error())
	case m.snapshot == nil:
		return []string{""}
	}
	lines := m.wrapText(m.snapshot.Summary)
	for i := range lines {
		lines[i] = titleStyle.Render(lines[i])
	}
	return lines
}

// wrapText returns a text in lines of the width of the screen.
func (m Model) wrapText(text string) []string {
	lines := []string{""}
	for _, word := range strings.Fields(text) {
		last := &lines[len(lines)-1]
		switch {
		case *last == "":
			*last = word
		case len([]rune(*last+" "+word)) <= m.width:
			*last += " " + word
		default:
			lines = append(lines, word)
		}
	}
	if most := max(1, m.height/4); len(lines) > most {
		lines = append(lines[:most-1], strings.Join(lines[most-1:], " "))
	}
	for i := range lines {
		lines[i] = m.cutLine(lines[i])
	}
	return lines
}

// countsLine returns the line with the number of proxies in each state, and the rate of attempts.
func (m Model) countsLine() string {
	c := m.snapshot
	text := fmt.Sprintf("%d proxies", c.Total)
	if c.Total == 1 {
		text = "1 proxy"
	}
	for _, state := range slices.Sorted(maps.Keys(c.States)) {
		if n := c.States[state]; n > 0 {
			text += fmt.Sprintf(", %d %s", n, state)
		}
	}
	text += fmt.Sprintf("; %.1f attempts per second", m.rate)
	if len(c.Rows) < c.Total {
		text += fmt.Sprintf("; the first %d in this order and filter", len(c.Rows))
	}
	return m.cutLine(text)
}

func (m Model) titles() []string {
	titles := make([]string, len(columns))
	for i, c := range columns {
		titles[i] = c.title
		if i == m.sortColumn {
			titles[i] += map[bool]string{false: "▼", true: "▲"}[m.reversed]
		}
	}
	return titles
}

func (m Model) rowLine(i int) string {
	r := &m.rows[i]
	cells := make([]string, len(columns))
	for j, c := range columns {
		cells[j] = c.text(r)
	}
	line := m.formatCells(cells)
	switch {
	case i == m.selected:
		return selectedStyle.Render(line)
	case r.State == "open" || r.State == "unreached":
		return openStyle.Render(line)
	case r.State != "closed":
		return halfStyle.Render(line)
	}
	return line
}

// minIDWidth and maxIDWidth are the limits of the width of the first column.
const (
	minIDWidth = 12
	maxIDWidth = 40
)

// shownColumns returns the indices of the columns that fit on the screen, and the width that is left for the first one.
// The first column, the column by which the table is sorted, and the successes are always shown.
func (m Model) shownColumns() (shown []int, idWidth int) {
	idWidth = m.width
	for i := range columns {
		shown = append(shown, i)
		if i > 0 {
			idWidth -= columns[i].width + 1 // the column and the space before it
		}
	}
	for _, i := range hideOrder {
		if idWidth < minIDWidth && i != m.sortColumn {
			shown = slices.DeleteFunc(shown, func(other int) bool { return other == i })
			idWidth += columns[i].width + 1
		}
	}
	return shown, max(minIDWidth, min(idWidth, maxIDWidth))
}

// formatCells returns a line of the table with each cell at the width of its column.
func (m Model) formatCells(cells []string) string {
	var b strings.Builder
	shown, idWidth := m.shownColumns()
	for _, i := range shown {
		text := cells[i]
		width := cmp.Or(columns[i].width, idWidth)
		letters := []rune(text)
		if len(letters) > width {
			letters = append(letters[:width-1], '…')
		}
		b.WriteString(string(letters) + strings.Repeat(" ", width-len(letters)+1))
	}
	return m.cutLine(strings.TrimSuffix(b.String(), " "))
}

// cutLine cuts a line at the width of the screen. A cut line ends with "…".
func (m Model) cutLine(line string) string {
	if letters := []rune(line); len(letters) > m.width {
		return string(letters[:max(0, m.width-1)]) + "…"
	}
	return line
}

func (m Model) footer() string {
	if m.isTyping {
		return m.cutLine("filter: " + m.filter + "_   enter keeps it, esc removes it")
	}
	text := "q quit  ↑↓ move  ←→ sort  r reverse  / filter  space pause"
	if m.filter != "" {
		text = "filter " + m.filter + "  " + text
	}
	return dimStyle.Render(m.cutLine(text))
}
