package proxylist

import (
	"net/url"
	"strconv"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// FormatLine returns a proxy as a line for Parse: a URL with its credentials and options.
func FormatLine(s *upstream.Spec) string {
	line := s.Address.Scheme + "://"
	if s.Address.Username != "" || s.Address.Password != "" {
		line += url.UserPassword(s.Address.Username, s.Address.Password.Reveal()).String() + "@"
	}
	line += s.Address.Host
	if options := optionsOfSpec(s); len(options) > 0 {
		line += "#" + options.Encode()
	}
	return line
}

// optionsOfSpec returns the options of a proxy.
func optionsOfSpec(s *upstream.Spec) url.Values {
	options, e := url.Values{}, s.Extra()
	set := func(name, value string) {
		if value != "" {
			options.Set(name, value)
		}
	}
	number := func(name string, f float64) {
		if f != 0 {
			options.Set(name, strconv.FormatFloat(f, 'g', -1, 64))
		}
	}
	for name, value := range e.Metadata {
		set(name, value)
	}
	set("id", s.ID)
	set("region", s.Region)
	set("tags", strings.Join(s.Tags, ","))
	number("weight", s.Weight)
	number("cost", s.Cost)
	number("max_in_flight", float64(e.MaxInFlight))
	number("rate", e.Rate)
	if e.MinInterval != 0 {
		set("min_interval", e.MinInterval.String())
	}
	if e.BytesPerDay != 0 {
		set("bytes_per_day", strconv.FormatInt(e.BytesPerDay, 10))
	}
	number("tier", float64(s.Tier))
	set("vendor", e.Vendor)
	number("cost_per_request", e.Price.Request)
	number("cost_per_gb", e.Price.GB)
	set("auth", e.Auth)
	if e.NoReuse {
		options.Set("reuse", "false")
	}
	if e.TLS != nil {
		set("ca_file", e.TLS.CAFile)
		set("cert", e.TLS.Cert)
		set("key", e.TLS.Key)
		if e.TLS.Insecure {
			options.Set("insecure", "true")
		}
	}
	return options
}

// FormatColumn returns the content of a column for a proxy. The parameter name is one of Columns.
func FormatColumn(s *upstream.Spec, name string) string {
	if name != columnMetadata {
		bare := *s
		bare.ChangeExtras(func(e *upstream.Extras) { e.Metadata = nil })
		return optionsOfSpec(&bare).Get(name)
	}
	values := url.Values{}
	for name, value := range s.Extra().Metadata {
		values.Set(name, value)
	}
	return values.Encode()
}
