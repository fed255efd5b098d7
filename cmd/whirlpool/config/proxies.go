package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lists"
	"github.com/whirlpool-proxy/whirlpool/core/proxylist"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// proxies makes the specs from [[proxies]], the proxy lists and the flags.
func (l *loader) proxies() {
	c := &l.cfg
	for i, p := range c.Proxies {
		key := fmt.Sprintf("proxies[%d]", i)
		a, err := upstream.ParseAddress(string(p.URL))
		if p.URL == "" {
			err = errors.New("is missing")
		}
		if err != nil {
			l.fault(key+".url", nil, err.Error())
			continue
		}
		if p.Weight == nil {
			one := 1.0
			p.Weight, c.Proxies[i].Weight = &one, &one
		}
		if p.Reuse == nil {
			yes := true
			p.Reuse, c.Proxies[i].Reuse = &yes, &yes
		}
		if *p.Weight == 0 { // in a Spec, 0 stands for the default
			l.fault(key+".weight", nil, "is 0; it must be above 0; to stop using the proxy, remove its entry")
		}
		spec := upstream.Spec{ID: p.ID, Address: a, Region: p.Region, Weight: *p.Weight, Cost: p.Cost,
			MaxInFlight: p.MaxInFlight, NoReuse: !*p.Reuse, Metadata: p.Metadata, OwnErrors: p.OwnErrors.specs(),
			Source: "config"}
		var bad *upstream.SpecError
		options := upstream.TLSOptions{CAFile: p.CAFile, Insecure: p.Insecure, Cert: p.Cert, Key: p.Key}
		if spec.TLS, err = l.loadTLS("", options); errors.As(err, &bad) {
			l.fault(key+"."+bad.Field, nil, bad.Msg)
		}
		if p.Breaker != nil {
			own := p.Breaker.over(c.Breaker)
			if !l.breaker(key+".breaker", own) {
				continue
			}
			b := own.config()
			spec.Breaker = &b
		}
		if err := upstream.CheckSpec(&spec); errors.As(err, &bad) {
			l.fault(key+"."+bad.Field, nil, bad.Msg)
		}
		c.specs = append(c.specs, spec)
	}
	for i, u := range l.src.URLs {
		spec, err := proxylist.ParseLine(u)
		if err != nil {
			l.faults = append(l.faults, Fault{File: "--proxy", Key: fmt.Sprintf("number %d", i+1), Msg: err.Error()})
			continue
		}
		spec.Source = "config"
		c.specs = append(c.specs, spec)
	}
	for i, path := range c.Pool.Files {
		key := fmt.Sprintf("pool.files[%d]", i)
		switch {
		case path == "":
			l.fault(key, nil, "must be the path of a file")
		case looksLikeProxy(path):
			l.fault(key, nil, "must be the path of a file; a proxy's URL goes into [[proxies]]")
		default:
			scheme, path := listScheme(path)
			l.list(l.relative(path), scheme, key)
		}
	}
	l.fetched()
	for _, path := range l.src.Proxies {
		if looksLikeProxy(path) {
			l.fault("--proxies", nil, "takes the path of a file; a proxy is given by --proxy")
			continue
		}
		scheme, path := listScheme(path)
		l.list(path, scheme, "--proxies")
	}
	l.ids()
}

// fetched reads the proxy lists that were fetched by URL. A list that has not been fetched yet has no
// proxies.
func (l *loader) fetched() {
	for i, u := range l.cfg.Pool.URLs {
		key := fmt.Sprintf("pool.urls[%d]", i)
		source := u.source()
		if err := source.Check(); err != nil {
			l.fault(key+".url", nil, err.Error())
		}
		if u.Scheme != "" && !IsScheme(u.Scheme) {
			l.fault(key+".scheme", u.Scheme, "must be "+upstream.ProxySchemes)
		}
		if u.Refresh != 0 && time.Duration(u.Refresh) < minRefresh {
			l.fault(key+".refresh", u.Refresh, "must be at least "+minRefresh.String())
		}
		if data, ok := l.src.Fetched[string(u.URL)]; ok && len(l.faults) == 0 {
			l.parse(lists.Redacted(string(u.URL)), data, u.Scheme, key)
		}
	}
}

// minRefresh is the shortest time from one fetch of a proxy list to the next.
const minRefresh = 10 * time.Second

// looksLikeProxy reports whether a value in place of the path of a proxy list is a proxy. Faults do not
// show such a value, because it may contain a password.
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
const maxWarnings = 1000

// Stdin is the name in Source.Proxies for the standard input (Source.Stdin).
const Stdin = "-"

// IsScheme reports whether s can be the default scheme of the lines of a proxy list.
func IsScheme(s string) bool { return upstream.IsProxyScheme(s) }

// listScheme splits SCHEME:FILE. The scheme is "" if name has none, or if a file with the whole name exists.
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

// list reads one proxy list. scheme is the scheme of lines without a scheme; "" for http.
func (l *loader) list(path, scheme, key string) {
	data, err := l.src.Stdin, error(nil)
	if path != Stdin {
		l.cfg.files = append(l.cfg.files, path)
		data, err = l.readFile(path, maxList)
	}
	if err != nil {
		l.fault(key, path, err.Error())
		return
	}
	// The last line may be incomplete, because its writer has not finished.
	if end := bytes.LastIndexByte(data, '\n') + 1; end > 0 && end < len(data) && len(data) < l.src.Sizes[path] {
		data = data[:end]
		l.cfg.Warnings = append(l.cfg.Warnings,
			fmt.Sprintf("%s: the list is shorter than before and its last line has no end; that line is left out",
				path))
	}
	l.parse(path, data, scheme, key)
}

// parse adds the proxies of a list. name is the name of the list in messages.
func (l *loader) parse(name string, data []byte, scheme, key string) {
	taken := map[string]bool{}
	for _, s := range l.cfg.specs {
		taken[s.ID] = true
	}
	specs, warnings, err := proxylist.Parse(bytes.NewReader(data), proxylist.Options{Name: name, Scheme: scheme,
		Taken: taken})
	if err != nil {
		l.fault(key, name, err.Error())
		return
	}
	// A file without a valid line is not a proxy list. For example, it may be an error page that was downloaded
	// in place of a list. (The lines of a list that is named twice are valid, although their ids are taken.)
	if len(specs) == 0 && len(warnings) > 0 && !anyProxy(data) {
		l.fault(key, name, fmt.Sprintf("no line of it gives a proxy; line %d: %s", warnings[0].Line, warnings[0].Msg))
		return
	}
	for i, w := range warnings {
		if i == maxWarnings { // the file is probably no proxy list
			l.cfg.Warnings = append(l.cfg.Warnings, fmt.Sprintf("%s: %d more lines are skipped or in doubt", name,
				len(warnings)-i))
			break
		}
		l.cfg.Warnings = append(l.cfg.Warnings, fmt.Sprintf("%s:%d: %s", name, w.Line, w.Msg))
	}
	specs = l.keepLoadable(name, specs)
	for i := range specs {
		if own := specs[i].TLS; own != nil {
			specs[i].TLS, _ = l.loadTLS(name, own.TLSOptions)
		}
	}
	l.cfg.specs = append(l.cfg.specs, specs...)
}

func anyProxy(list []byte) bool {
	specs, _, _ := proxylist.Parse(bytes.NewReader(list), proxylist.Options{})
	return len(specs) > 0
}

// ids adds a fault for each id that is used twice in [[proxies]].
func (l *loader) ids() {
	seen := map[string]int{}
	for i, p := range l.cfg.Proxies {
		if first, twice := seen[p.ID]; twice && p.ID != "" {
			l.fault(fmt.Sprintf("proxies[%d].id", i), nil, fmt.Sprintf("%q is also the id of proxies[%d]", p.ID,
				first))
		}
		seen[p.ID] = i
	}
}
