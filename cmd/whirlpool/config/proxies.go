package config

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lists"
	"github.com/whirlpool-proxy/whirlpool/core/proxylist"
	"github.com/whirlpool-proxy/whirlpool/core/strict"
	"github.com/whirlpool-proxy/whirlpool/core/traffic"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// readProxies makes the specs of the configured proxies: those of [[proxies]], of the proxy lists and of the flags.
func (l *loader) readProxies() {
	c := &l.cfg
	for i, p := range c.Proxies {
		faultCount := len(l.faults)
		key := fmt.Sprintf("proxies[%d]", i)
		a, err := upstream.ParseAddress(string(p.URL))
		if p.URL == "" {
			err = errors.New("is missing")
		}
		if err != nil {
			if !l.unset[key+".url"] {
				l.addFault(key+".url", nil, err.Error())
			}
			a.Scheme = upstream.HTTPS // a scheme for which every other field is permitted
		}
		if p.Weight == nil {
			defaultWeight := 1.0
			p.Weight, c.Proxies[i].Weight = &defaultWeight, &defaultWeight
		}
		if p.Reuse == nil {
			defaultReuse := true
			p.Reuse, c.Proxies[i].Reuse = &defaultReuse, &defaultReuse
		}
		if *p.Weight == 0 { // not allowed: in a Spec, 0 stands for the default
			l.addFault(key+".weight", nil, "is 0; it must be above 0; to stop using the proxy, remove its entry")
		}
		extras := upstream.Extras{
			MaxInFlight: p.MaxInFlight, Rate: p.Rate, MinInterval: time.Duration(p.MinInterval),
			BytesPerDay: int64(p.BytesPerDay), Vendor: p.Vendor,
			Price: traffic.Price{Request: p.CostRequest, GB: p.CostGB},
			Auth:  p.Auth, NoReuse: !*p.Reuse, Metadata: p.Metadata, OwnErrors: p.OwnErrors.specs(),
		}
		var specErr *upstream.SpecError
		options := upstream.TLSOptions{CAFile: p.CAFile, Insecure: p.Insecure, Cert: p.Cert, Key: p.Key}
		if extras.TLS, err = l.loadTLS("", options); errors.As(err, &specErr) {
			l.addFault(key+"."+specErr.Field, nil, specErr.Msg)
		}
		if p.Breaker != nil {
			if own := p.Breaker.mergeOver(c.Breaker); l.checkBreaker(key+".breaker", own) {
				b := own.config()
				extras.Breaker = &b
			}
		}
		spec := upstream.Spec{ID: p.ID, Address: a, Region: p.Region, Tags: p.Tags, Weight: *p.Weight, Cost: p.Cost,
			Tier: p.Tier, Source: "config"}
		spec.ChangeExtras(func(e *upstream.Extras) { *e = extras })
		if template := upstream.IDTemplate(p.ID); template.HasPlaceholder() {
			if err := template.Check(); err != nil {
				l.addFault(key+".id", p.ID, err.Error())
			}
			spec.ID = ""
			spec.ChangeExtras(func(e *upstream.Extras) { e.IDTemplate = template })
		}
		for _, wrong := range upstream.SpecFaults(&spec) {
			l.addFault(key+"."+wrong.Field, nil, wrong.Msg)
		}
		if len(l.faults) > faultCount { // without this, the pool would report the same faults again
			continue
		}
		c.specs = append(c.specs, spec)
	}
	for i, u := range l.src.URLs {
		spec, err := proxylist.ParseLine(u)
		if err != nil {
			l.faults = append(l.faults, Fault{File: "--proxy", Key: fmt.Sprintf("number %d", i+1), Msg: err.Error()})
			continue
		}
		for _, warning := range proxylist.MetadataWarnings(spec.Extra().Metadata) {
			c.Warnings = append(c.Warnings, fmt.Sprintf("--proxy: number %d: %s", i+1, warning))
		}
		spec.Source = "config"
		c.specs = append(c.specs, spec)
	}
	for i, f := range c.Pool.Files {
		key, path := fmt.Sprintf("pool.files[%d]", i), f.name()
		switch {
		case slices.Contains(l.wrongFiles, i): // normalizeListFiles has added the fault
		case path == "":
			l.addFault(key, nil, "must be the path of a file")
		case looksLikeProxy(path):
			l.addFault(key, nil, "must be the path of a file; a proxy's URL goes into [[proxies]]")
		default:
			scheme, path := listScheme(path)
			if scheme == "" && l.hasWrongScheme(path, l.resolvePath(path), key) {
				continue
			}
			l.readList(l.resolvePath(path), scheme, key, f.ID)
		}
	}
	l.addFetchedLists()
	for _, path := range l.src.Proxies {
		if looksLikeProxy(path) {
			l.addFault("--proxies", nil, "takes the path of a file; a proxy is given by --proxy")
			continue
		}
		scheme, path := listScheme(path)
		if scheme == "" && l.hasWrongScheme(path, path, "--proxies") {
			continue
		}
		l.readList(path, scheme, "--proxies", "")
	}
	l.checkIDs()
}

// addFetchedLists checks pool.urls, and adds the proxies of the fetched lists. A list that has not been fetched adds no
// proxies.
func (l *loader) addFetchedLists() {
	for i, u := range l.cfg.Pool.URLs {
		key := fmt.Sprintf("pool.urls[%d]", i)
		source := u.source()
		if err := source.Check(); err != nil {
			l.addFault(key+".url", nil, err.Error())
		}
		if u.Scheme != "" && !IsScheme(u.Scheme) {
			l.addFault(key+".scheme", u.Scheme, "must be "+upstream.ProxySchemes)
		}
		if err := u.ID.Check(); err != nil {
			l.addFault(key+".id", u.ID, err.Error())
		}
		if u.Refresh != 0 && time.Duration(u.Refresh) < minRefresh {
			l.addFault(key+".refresh", u.Refresh, "must be at least "+minRefresh.String())
		}
	}
	if len(l.faults) > 0 {
		return
	}
	for i, f := range l.fetchLists() {
		key, u := fmt.Sprintf("pool.urls[%d]", i), l.cfg.Pool.URLs[i]
		switch {
		case f.err != nil:
			l.addWarning(key+".url", "the list was not fetched: "+f.err.Error()+"; a gateway starts without it, "+
				"unless it has kept an earlier version, and tries again")
		case f.data != nil:
			l.parseList(lists.Redacted(string(u.URL)), newListText(f.data), u.Scheme, key, u.ID)
		}
	}
}

// fetchResult is a proxy list, or the error of its fetch; both are nil before the first fetch.
type fetchResult struct {
	data []byte
	err  error
}

// fetchLists returns the result for each list of pool.urls, in the same order.
func (l *loader) fetchLists() []fetchResult {
	results := make([]fetchResult, len(l.cfg.Pool.URLs))
	var all sync.WaitGroup
	for i := range l.cfg.Pool.URLs {
		u, r := &l.cfg.Pool.URLs[i], &results[i]
		if r.data = l.src.Fetched[string(u.URL)]; r.data == nil && l.src.Fetch != nil {
			all.Go(func() { r.data, r.err = l.src.Fetch(u.source()) })
		}
	}
	all.Wait()
	return results
}

// minRefresh is the minimum time from one fetch of a proxy list to the next fetch.
const minRefresh = 10 * time.Second

// looksLikeProxy reports whether a value that should be the path of a proxy list looks like a proxy. The caller's
// faults do not show such a value, because it may contain a password.
func looksLikeProxy(path string) bool {
	if scheme, file := listScheme(path); scheme != "" && !strings.Contains(file, ":") {
		return strings.Contains(file, "@")
	}
	if _, err := os.Stat(path); err == nil {
		return false
	}
	_, err := proxylist.ParseLine(path)
	return err == nil || strings.Contains(path, "://") || strings.Contains(path, "@")
}

// maxWarnings is the maximum number of warnings about the lines of one proxy list.
const maxWarnings = proxylist.MaxWarnings

// Stdin is the element of Source.Proxies that stands for the standard input (Source.Stdin).
const Stdin = "-"

// IsScheme reports whether s can be the default scheme of the lines of a proxy list.
func IsScheme(s string) bool { return upstream.IsProxyScheme(s) }

// hasWrongScheme reports whether a name has the form WORD:FILE, where WORD is a misspelled scheme. If so, it adds a
// fault that suggests the right scheme. It returns false if the file exists.
func (l *loader) hasWrongScheme(name, path, key string) bool {
	word, _, ok := strings.Cut(name, ":")
	if _, err := os.Stat(path); !ok || err == nil {
		return false
	}
	similar := strict.DidYouMean(word, upstream.SchemeNames())
	if similar != "" {
		l.addFault(key, nil, "there is no file of this name, and its beginning is not a scheme"+similar)
	}
	return similar != ""
}

// listScheme splits a name of the form SCHEME:FILE. If the name has no scheme, or if a file with the whole name exists,
// it returns "" and the whole name.
func listScheme(name string) (scheme, path string) {
	scheme, path, ok := strings.Cut(name, ":")
	switch {
	case !ok || strings.HasPrefix(path, "//"):
		return "", name
	case !IsScheme(scheme):
		return "", name
	}
	if _, err := os.Stat(name); err == nil {
		return "", name
	}
	return scheme, path
}

// readList reads one proxy list and adds its proxies. The given scheme, or http if it is "", applies to lines without a
// scheme. The template applies to proxies without an id: their ids are made from it. Faults of the list have the given
// key.
func (l *loader) readList(path, scheme, key string, template upstream.IDTemplate) {
	text, err := newListText(l.src.Stdin), error(nil)
	if path != Stdin {
		l.cfg.files = append(l.cfg.files, path)
		text, err = l.readListFile(path)
	}
	if err != nil {
		l.addFault(key, path, err.Error())
		return
	}
	// If the list is shorter than before, another program may still be writing the file, and the last line may be
	// incomplete.
	if text.lastEnd > 0 && text.lastEnd < text.size && text.size < l.src.Sizes[path] {
		text.cutLastLine()
		l.cfg.Warnings = append(l.cfg.Warnings,
			fmt.Sprintf("%s: the list is shorter than before and its last line has no end; that line is left out",
				path))
	}
	l.parseList(path, text, scheme, key, template)
}

// parseList adds the proxies in the text of a list. The name of the list is for messages, and its key is for faults.
func (l *loader) parseList(name string, text *listText, scheme, key string, template upstream.IDTemplate) {
	usedIDs := map[string]bool{}
	for _, s := range l.cfg.specs {
		usedIDs[s.ID] = true
	}
	reading := Reading{Name: name}
	specs, warnings, err := proxylist.Parse(text, proxylist.Options{Name: name, Scheme: scheme,
		UsedIDs: usedIDs, Counts: &reading.EntryCounts, Entries: text.lines + 1,
		ShareTexts: l.src.ShareTexts, HasIDTemplate: template != ""})
	if err != nil {
		l.addFault(key, name, err.Error())
		return
	}
	// A file without a valid line is probably no proxy list, but for example an error page that was downloaded in its
	// place. The lines of a list that the configuration names twice are valid: the second time they are skipped only
	// because their ids are taken.
	if len(specs) == 0 && len(warnings) > 0 && reading.Skipped[proxylist.ReasonIDTaken] == 0 {
		w := warnings[0]
		l.addFault(key, name, "none of its lines is a valid proxy; "+w.String())
		return
	}
	shown := warnings[:min(len(warnings), maxWarnings)]
	for _, w := range shown {
		l.cfg.Warnings = append(l.cfg.Warnings, fmt.Sprintf("%s:%d: %s", name, w.Line, w.Msg))
	}
	if more := reading.WarningCount() - len(shown); more > 0 { // with so many wrong lines, the file is probably no list
		l.cfg.Warnings = append(l.cfg.Warnings, fmt.Sprintf("%s: %d more lines are skipped or in doubt", name, more))
	}
	specs = l.keepLoadable(name, specs)
	reading.Proxies = len(specs)
	upstream.SetIDTemplate(specs, template)
	samples := slices.Clone(specs[:min(len(specs), maxSamples)])
	upstream.AssignIDs(samples)
	for i := range samples {
		reading.Samples = append(reading.Samples, samples[i].Address.Redacted())
		if template != "" {
			reading.IDs = append(reading.IDs, samples[i].ID)
		}
	}
	l.cfg.Readings = append(l.cfg.Readings, reading)
	for i := range specs {
		if own := specs[i].Extra().TLS; own != nil {
			specs[i].ChangeExtras(func(e *upstream.Extras) { e.TLS, _ = l.loadTLS(name, own.TLSOptions) })
		}
	}
	if l.cfg.specs == nil { // this avoids a copy of a large list
		l.cfg.specs = specs
	} else {
		l.cfg.specs = append(l.cfg.specs, specs...)
	}
}

// Reading describes how the gateway reads a proxy list: the number of proxies and samples of them. It contains no
// credentials, except user names if the template for ids has them.
type Reading struct {
	Name    string `json:"name"`
	Proxies int    `json:"proxies"`
	proxylist.EntryCounts
	Samples []string `json:"samples"`       // URLs of the first proxies, without credentials
	IDs     []string `json:"ids,omitempty"` // ids of the samples, if the list has a template for ids
}

const maxSamples = 3

// checkIDs adds a fault for each proxy of [[proxies]] that has the same id as an entry before it.
func (l *loader) checkIDs() {
	seen := map[string]int{}
	for i, p := range l.cfg.Proxies {
		if upstream.IDTemplate(p.ID).HasPlaceholder() {
			continue
		}
		if first, isRepeated := seen[p.ID]; isRepeated && p.ID != "" {
			l.addFault(fmt.Sprintf("proxies[%d].id", i), nil, fmt.Sprintf("%q is also the id of proxies[%d]", p.ID,
				first))
		}
		seen[p.ID] = i
	}
}
