package api

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core/proxylist"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// proxyListHandler serves /proxy-lists. A GET returns the proxies of the pool as a list, and a POST adds the proxies of
// a list.
type proxyListHandler struct {
	pool    Pool
	lists   *poolLists
	proxies *proxyHandler
	changes Changes
	now     func() time.Time
}

func (h *proxyListHandler) routes(r fiber.Router) {
	r.Get("/proxy-lists", h.export)
	r.Post("/proxy-lists", h.importList)
}

// --- Export -----------------------------------------------------------

// export responds with the proxies that a query selects, as a list or as a table (CSV). Neither has secrets.
func (h *proxyListHandler) export(c *fiber.Ctx) error {
	format, given := queryValue(c, "format")
	if given && format != "list" && format != "csv" {
		return badField("format", "format must be list or csv")
	}
	proxies, _, err := h.lists.proxiesOfQuery(c)
	if err != nil {
		return err
	}
	name, mime, content := "proxies.txt", "text/plain", h.formatLines
	if format == "csv" {
		name, mime, content = "proxies.csv", "text/csv", h.formatTable
	}
	c.Set(fiber.HeaderContentType, mime+"; charset=utf-8")
	c.Set(fiber.HeaderContentDisposition, `attachment; filename="`+name+`"`)
	return c.Send(content(proxies))
}

// settingsOf returns the settings of a proxy. The credentials and the names of TLS files are left out.
func settingsOf(u *upstream.Upstream) upstream.Spec {
	spec := *u.Spec()
	spec.ID, spec.Region = u.ID(), u.Region()
	spec.Address.Username, spec.Address.Password = "", ""
	spec.ChangeExtras(func(e *upstream.Extras) { e.TLS = nil })
	if spec.Weight == 1 {
		spec.Weight = 0 // the default
	}
	return spec
}

// hasSecrets reports whether a proxy has credentials.
func hasSecrets(u *upstream.Upstream) bool {
	a := u.Spec().Address
	return a.Username != "" || a.Password != ""
}

// formatLines returns proxies as a list that the flag --proxies can read. The line of a proxy with credentials is a
// comment, because the proxy would not work without them.
func (h *proxyListHandler) formatLines(proxies []*upstream.Upstream) []byte {
	secret := 0
	var lines bytes.Buffer
	for _, u := range proxies {
		spec := settingsOf(u)
		line := proxylist.FormatLine(&spec)
		if hasSecrets(u) {
			secret++
			line = "# " + strings.Replace(line, "://", "://USER:PASSWORD@", 1)
		}
		lines.WriteString(line + "\n")
	}
	head := fmt.Sprintf("# Proxies of Whirlpool: %d, at %s\n"+
		"# Users, passwords, TLS files and own_error are left out.\n",
		len(proxies), h.now().UTC().Format(time.RFC3339))
	if secret > 0 {
		head += fmt.Sprintf("# Proxies that need a user and a password: %d. Their lines are comments: "+
			"write both in, and remove the '#'.\n", secret)
	}
	return append([]byte(head), lines.Bytes()...)
}

// stateColumns are the columns of a table that do not show settings.
var stateColumns = []string{"state", "draining", "success_rate", "samples", "avg_latency", "uses", "exit_address"}

// formatTable returns proxies as a table (RFC 4180) that the flag --proxies can read.
func (h *proxyListHandler) formatTable(proxies []*upstream.Upstream) []byte {
	var out bytes.Buffer
	w := csv.NewWriter(&out)
	w.UseCRLF = true
	columns := proxylist.Columns()
	_ = w.Write(slices.Concat([]string{"url"}, columns, stateColumns)) // a Buffer has no errors
	for _, u := range proxies {
		spec := settingsOf(u)
		row := []string{plainCell(u.Spec().Address.Redacted())}
		for _, name := range columns {
			row = append(row, plainCell(proxylist.FormatColumn(&spec, name)))
		}
		v := h.proxies.view(u)
		number := func(f float64) string { return strconv.FormatFloat(f, 'g', 6, 64) }
		row = append(row, v.State, strconv.FormatBool(v.Draining), number(v.SuccessRate), strconv.Itoa(v.Samples),
			number(v.AvgLatency), strconv.FormatUint(v.Uses, 10), plainCell(v.ExitAddress))
		_ = w.Write(row)
	}
	w.Flush()
	return out.Bytes()
}

// plainCell returns a text as the content of a cell. A spreadsheet takes a text as a formula if it begins with one of
// = + - @ TAB CR; an apostrophe before the text prevents this (OWASP, CSV Injection).
func plainCell(text string) string {
	if text != "" && strings.ContainsRune("=+-@\t\r", rune(text[0])) {
		return "'" + text
	}
	return text
}

// --- Import -----------------------------------------------------------

// maxList is the maximum number of bytes of a list.
const maxList = 16 << 20

// readingView is the JSON of the result of reading a list. It has no credentials.
type readingView struct {
	Proxies  int            `json:"proxies"` // number of proxies that are added
	Forms    map[string]int `json:"forms"`   // number of proxies by form, including those that the pool has already
	LeftOut  map[string]int `json:"left_out"`
	Warnings []listWarning  `json:"warnings"` // at most maxWarnings
	Examples []string       `json:"examples"` // the first proxies as they were read
	IDs      []string       `json:"ids"`      // ids of the added proxies; empty if none was added
}

// listWarning is the JSON of a warning that concerns some lines.
type listWarning struct {
	Message string `json:"message"` // has the values of the first of the lines
	Lines   []int  `json:"lines"`   // numbers of the first of the lines
	Count   int    `json:"count"`   // number of all these lines
}

// Limits of a readingView.
const (
	maxWarnings = 50
	maxExamples = 5
)

// dryRun is the name of a query parameter. If its value is true, a list is read, but its proxies are not added.
const dryRun = "dry_run"

// importList reads a list in all forms that the flag --proxies accepts, and adds its proxies. Lines that are no
// proxies, and proxies that the pool has already, are left out.
func (h *proxyListHandler) importList(c *fiber.Ctx) error {
	only, err := queryBool(c, dryRun, false)
	if err != nil {
		return err
	}
	persist, err := queryBool(c, persistField, true)
	if err != nil {
		return err
	}
	scheme, given := queryValue(c, "scheme")
	if given && !slices.Contains(upstream.SchemeNames(), scheme) {
		return badField("scheme", "scheme must be one of "+upstream.ProxySchemes)
	}
	id, given := queryValue(c, "id")
	template := upstream.IDTemplate(id)
	if err := template.Check(); err != nil || given && id == "" {
		return badField("id", fmt.Sprintf("id %v", cmp.Or(err, errors.New("is empty"))))
	}
	switch mediaType(c) {
	case fiber.MIMETextPlain, "text/csv", fiber.MIMEApplicationJSON:
	default:
		return badMediaType("the body must be text/plain, text/csv or application/json")
	}
	specs, v, err := h.parseList(c.Body(), scheme, template)
	if err != nil {
		return err
	}
	if only || len(specs) == 0 {
		return send(c, v)
	}
	added, err := h.changes.AddProxies(specs, persist)
	if err != nil {
		return proxyProblem(err)
	}
	v.IDs = append(v.IDs, idsOf(added)...)
	setChangedNames(c, "proxy", idsOf(added)...)
	return send(c, v)
}

// parseList reads a list, and returns the proxies of the list that can be added.
func (h *proxyListHandler) parseList(
	text []byte, scheme string, template upstream.IDTemplate,
) ([]upstream.Spec, *readingView, error) {
	taken, known := map[string]bool{}, map[upstream.Address]bool{}
	for _, u := range h.pool.Snapshot().All {
		taken[u.ID()] = true
		if !u.Draining() { // a proxy that is being removed can be added again
			known[u.Spec().Address] = true
		}
	}
	counts := proxylist.EntryCounts{
		Forms: map[string]int{}, Skipped: map[string]int{}, Warnings: map[string]int{},
	}
	var lines []int
	all, warnings, err := proxylist.Parse(bytes.NewReader(text), proxylist.Options{
		Name: upstream.SourceAPI, Scheme: scheme, UsedIDs: taken, Counts: &counts, Lines: &lines,
		HasIDTemplate: template != "",
	})
	if err != nil {
		return nil, nil, err
	}
	specs := all[:0]
	for i, s := range all {
		reason := ""
		switch {
		case known[s.Address]:
			reason = "the pool has the proxy already"
		case s.Extra().TLS != nil:
			reason = errTLSOption.Error()
		case s.Address.HasMaskedCredentials():
			reason = "*** stands for hidden credentials; write them out"
		default:
			specs = append(specs, s)
			continue
		}
		if counts.Skipped[reason]++; counts.Skipped[reason] <= proxylist.MaxLinesOfReason {
			warnings = append(warnings, proxylist.Warning{Line: lines[i], Msg: reason, Reason: reason})
		}
		counts.Warnings[reason]++
	}
	upstream.SetIDTemplate(specs, template)
	v := &readingView{Proxies: len(specs), Forms: counts.Forms, LeftOut: counts.Skipped, Examples: []string{},
		Warnings: groupWarnings(warnings, counts.Warnings), IDs: []string{}}
	for i := range specs[:min(len(specs), maxExamples)] {
		s := specs[i]
		redacted := s.Address.Redacted()
		s.Address.Username, s.Address.Password = "", ""
		v.Examples = append(v.Examples, strings.Replace(proxylist.FormatLine(&s), s.Address.Redacted(), redacted, 1))
	}
	return specs, v, nil
}

// errTLSOption is the error of a proxy with options that name files.
var errTLSOption = errors.New("ca_file, insecure, cert and key are options of the configuration only")

// groupWarnings returns one warning for each reason. The most frequent one comes first. The parameter counts has the
// number of warnings of each reason.
func groupWarnings(list []proxylist.Warning, counts map[string]int) []listWarning {
	groups := map[string]*listWarning{}
	for _, w := range list {
		g := groups[w.Reason]
		if g == nil {
			g = &listWarning{Message: w.Msg, Lines: []int{}, Count: counts[w.Reason]}
			groups[w.Reason] = g
			if g.Count > 1 && w.Msg != w.Reason {
				g.Message = w.Reason + "; the first one: " + w.Msg
			}
		}
		if w.Line > 0 && len(g.Lines) < proxylist.MaxLinesOfReason {
			g.Lines = append(g.Lines, w.Line)
		}
	}
	all := []listWarning{}
	for _, reason := range slices.Sorted(maps.Keys(groups)) {
		all = append(all, *groups[reason])
	}
	slices.SortStableFunc(all, func(a, b listWarning) int { return cmp.Compare(b.Count, a.Count) })
	return all[:min(len(all), maxWarnings)]
}

// changesNothing reports whether a request only checks a list, because its query parameter "dry_run" is true.
func changesNothing(c *fiber.Ctx) bool {
	only, _ := queryBool(c, dryRun, false)
	return only
}
