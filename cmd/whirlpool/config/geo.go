package config

import (
	"net/netip"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/geo"
)

func (l *loader) openGeo() {
	c := &l.cfg
	if c.Geo.MMDB == "" {
		return
	}
	path := l.resolvePath(c.Geo.MMDB)
	c.files = append(c.files, path)
	var err error
	if c.geo, err = geo.Open(path); err != nil {
		l.addFault("geo.mmdb", c.Geo.MMDB, err.Error())
	}
	if c.Health.URL == "" || c.Health.Exit == "" {
		l.addWarning("geo.mmdb",
			"has no effect, because the exit addresses of proxies are unknown: set health.url and health.exit")
	}
}

// locateExit returns the function that looks up the region of an exit address; nil if geo.mmdb is not set.
func (c *Config) locateExit() func(netip.Addr) string {
	if c.geo == nil {
		return nil
	}
	return c.geo.Country
}
