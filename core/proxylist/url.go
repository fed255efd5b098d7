package proxylist

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// parseURL parses a URL and the options in its fragment.
func parseURL(scheme, rest string) (spec upstream.Spec, err error) {
	if strings.EqualFold(scheme, "socks") {
		scheme = upstream.SOCKS5
	}
	options := ""
	if i := strings.LastIndexByte(rest, '#'); i >= 0 && i > strings.LastIndexByte(rest, '@') {
		rest, options = rest[:i], rest[i+1:]
	}
	rest = strings.TrimSuffix(rest, "/")
	if f := strings.SplitN(rest, ":", 4); len(f) == 4 && isPort(f[1]) && !isHostPort(textAfterLast(rest, '@')) {
		// The form is host:port:user:pass after a scheme. User and password are not percent-decoded.
		spec.Address = upstream.Address{
			Scheme: strings.ToLower(scheme), Username: f[2], Password: upstream.Secret(f[3]),
		}
		if !isScheme(scheme) {
			return spec, &schemeError{scheme, "scheme"}
		}
		if err := checkTemplates(&spec.Address); err != nil {
			return spec, err
		}
		spec.Address.Host, err = upstream.HostPort(f[0]+":"+f[1], "")
	} else if spec.Address, err = upstream.ParseAddress(scheme + "://" + rest); err != nil {
		spec.Address, err = addressOfFields(scheme, rest, err)
	} else if !strings.Contains(textBefore(rest, '@'), ":") {
		decodeLogin(&spec.Address)
	}
	if err != nil {
		return spec, err
	}
	values, err := url.ParseQuery(options)
	if err != nil {
		return spec, errors.New("the options after '#' are not name=value&name=value")
	}
	for name, all := range values {
		value := all[len(all)-1]
		if err := setOption(&spec, name, value); err != nil {
			return spec, err
		}
	}
	return spec, nil
}

// decodeLogin decodes a user name that is user:pass in base64, as in the links of v2rayN.
func decodeLogin(a *upstream.Address) {
	text, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(a.Username, "="))
	if err != nil {
		return
	}
	user, password, ok := strings.Cut(string(text), ":")
	if ok && !strings.ContainsFunc(string(text), func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		a.Username, a.Password = user, upstream.Secret(password)
	}
}

// addressOfFields returns the address of scheme://user:pass:host:port, of scheme://host:port@user:pass and of
// scheme://[IPv6]:port:user:pass. For any other text, it returns the error that the caller has passed.
func addressOfFields(scheme, rest string, invalid error) (a upstream.Address, err error) {
	if address, login, found := strings.Cut(rest, "@"); found && isPlainAddress(address) &&
		!strings.Contains(login, "@") { // scheme://host:port@user:pass
		rest = address + ":" + login
	}
	host, user, password, warning, err := splitFields(rest)
	if err != nil || user == "" || warning != "" || !isScheme(scheme) || !isPlainAddress(host) ||
		strings.ContainsAny(rest, "@,") {
		return a, invalid
	}
	a = upstream.Address{Scheme: strings.ToLower(scheme), Username: user, Password: upstream.Secret(password)}
	if err := checkTemplates(&a); err != nil {
		return a, err
	}
	a.Host, err = upstream.HostPort(host, "")
	return a, err
}

// setTLS sets an option for an https:// proxy. It does not read files.
func setTLS(e *upstream.Extras, name, value string) error {
	if e.TLS == nil {
		e.TLS = &upstream.TLS{}
	}
	switch name {
	case "ca_file":
		e.TLS.CAFile = value
	case "cert":
		e.TLS.Cert = value
	case "key":
		e.TLS.Key = value
	default:
		e.TLS.Insecure = value == "true"
		if value != "true" && value != "false" {
			return errors.New("the option insecure must be true or false")
		}
	}
	return nil
}

func setOption(spec *upstream.Spec, name, value string) (err error) {
	switch name {
	case "id":
		spec.ID = value
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\ufffd' }) ||
			len(value) > upstream.MaxIDLength {
			return errors.New("the option id has a control character or is too long")
		}
	case "region", "country":
		spec.Region = value
	case "tags":
		spec.Tags = strings.Split(value, ",")
		for _, tag := range spec.Tags {
			if err := core.CheckTag(tag); err != nil {
				return errors.New("the option tags must have words of letters, digits, '-', '_' and '.', with commas " +
					"between")
			}
		}
	case "weight":
		if spec.Weight, err = parseNumber(name, value); err == nil && spec.Weight == 0 {
			err = errors.New("the option weight must be above 0")
		}
	case "cost":
		spec.Cost, err = parseNumber(name, value)
	default:
		if name == "tier" {
			if n, err := strconv.Atoi(value); err == nil {
				spec.Tier = n
			}
		}
		spec.ChangeExtras(func(e *upstream.Extras) { err = setExtra(e, name, value) })
	}
	return err
}

// parseNumber parses the value of the option with the given name.
func parseNumber(name, value string) (float64, error) {
	f, err := strconv.ParseFloat(value, 64)
	if err != nil || !(f >= 0 && f <= 1e6) {
		return 0, fmt.Errorf("the option %s is not a number from 0 to 1000000", name)
	}
	return f, nil
}

// setExtra sets one of the Extras. An unknown option becomes metadata of the proxy.
func setExtra(e *upstream.Extras, name, value string) (err error) {
	switch name {
	case "max_in_flight":
		var f float64
		f, err = parseNumber(name, value)
		e.MaxInFlight = int(f)
	case "rate":
		e.Rate, err = parseNumber(name, value)
	case "min_interval":
		if e.MinInterval, err = time.ParseDuration(value); err != nil {
			err = errors.New("the option min_interval is not a duration such as 500ms")
		}
	case "bytes_per_day":
		if e.BytesPerDay, err = strconv.ParseInt(value, 10, 64); err != nil {
			err = errors.New("the option bytes_per_day is not a number of bytes")
		}
	case "cost_per_request":
		e.Price.Request, err = parseNumber(name, value)
	case "cost_per_gb":
		e.Price.GB, err = parseNumber(name, value)
	case "auth":
		if e.Auth = value; value != upstream.AuthDigest {
			err = errors.New("the option auth must be digest")
		}
	case "reuse":
		e.NoReuse = value == "false"
		if value != "true" && value != "false" {
			err = errors.New("the option reuse must be true or false")
		}
	case "ca_file", "insecure", "cert", "key":
		err = setTLS(e, name, value)
	default: // tier and vendor are metadata, too: earlier versions had them only there
		if name == "vendor" {
			e.Vendor = value
		}
		setMetadata(e, name, value)
	}
	return err
}

func setMetadata(e *upstream.Extras, name, value string) {
	if e.Metadata == nil {
		e.Metadata = map[string]string{}
	}
	e.Metadata[name] = value
}
