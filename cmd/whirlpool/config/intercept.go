package config

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/intercept"
	"github.com/whirlpool-proxy/whirlpool/core/rules"
)

// Intercept is the [intercept] section: the files of the authority for interception.
type Intercept struct {
	CAFile  string   `koanf:"ca_file" json:"ca_file,omitempty"`   // PEM: the certificate, then its chain
	KeyFile string   `koanf:"key_file" json:"key_file,omitempty"` // PEM
	Exclude []string `koanf:"exclude" json:"exclude"`             // patterns of hosts
}

// readIntercept reads the authority for interception. A change of one of its files makes the gateway reload the
// configuration.
func (l *loader) readIntercept() {
	c := &l.cfg.Intercept
	for i, pattern := range c.Exclude {
		if _, err := rules.ParseHost(pattern); err != nil {
			l.addFault(fmt.Sprintf("intercept.exclude[%d]", i), pattern, err.Error())
		}
	}
	switch {
	case c.CAFile == "" && c.KeyFile == "":
		for i := range l.cfg.Rules {
			if l.cfg.Rules[i].Then.Intercept {
				l.addFault(fmt.Sprintf("rules[%d].then.intercept", i), nil,
					"needs ca_file and key_file in [intercept]; `whirlpool ca create` makes them")
			}
		}
		return
	case c.CAFile == "" || c.KeyFile == "":
		l.addFault("intercept", nil, "needs both ca_file and key_file; `whirlpool ca create` makes them")
		return
	}
	cert, ok := l.readPEM("intercept.ca_file", c.CAFile)
	if !ok || !l.private("intercept.key_file", c.KeyFile) {
		return
	}
	key, ok := l.readPEM("intercept.key_file", c.KeyFile)
	if !ok {
		return
	}
	authority, err := intercept.Load(cert, key, time.Now)
	if err != nil {
		l.addFault("intercept.ca_file", nil, err.Error())
		return
	}
	l.cfg.authority = authority
	if left := time.Until(authority.Expires()); left < expiresSoon {
		l.addWarning("intercept.ca_file", "the authority's certificate ends on "+
			authority.Expires().UTC().Format(time.DateOnly)+"; make another one, and let clients trust it")
	}
	l.interceptedHosts(authority)
}

// interceptedHosts checks the hosts in the conditions of rules with intercept = true. It adds a warning for each host
// for which the authority cannot sign a certificate, and a warning if no rule has intercept = true.
func (l *loader) interceptedHosts(authority *intercept.Authority) {
	rule := false
	for i := range l.cfg.Rules {
		r := &l.cfg.Rules[i]
		if !r.Then.Intercept {
			continue
		}
		rule = true
		for _, host := range r.When.Host {
			if strings.Contains(host, "*") {
				continue
			}
			if _, err := authority.Certificate(rules.NormalHost(host)); err != nil {
				l.addWarning(fmt.Sprintf("rules[%d].when.host", i), fmt.Sprintf("%s is not intercepted: %v", host, err))
			}
		}
	}
	if !rule {
		l.addWarning("intercept.ca_file", "has no effect: no rule has intercept = true in then")
	}
}

// If the authority's certificate expires in less than expiresSoon, the configuration gets a warning.
const expiresSoon = 30 * 24 * time.Hour

// The method private reports whether a file can be accessed by its owner only. If other users can access the file, the
// method adds a fault.
func (l *loader) private(key, path string) bool {
	info, err := os.Stat(l.resolvePath(path))
	if err != nil {
		return true // the caller reads the file next, and adds the fault
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		l.addFault(key, nil,
			fmt.Sprintf("has the mode %04o, so other users can use it to pose as any host: chmod 600 %s",
				mode, path))
		return false
	}
	return true
}
