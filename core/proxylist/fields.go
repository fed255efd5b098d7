package proxylist

import (
	"errors"
	"fmt"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// field is the meaning of a column of a table, or of a field of a JSON object.
type field uint8

const (
	unused field = iota
	fieldURL
	fieldHost
	fieldPort
	fieldProtocol
	fieldUser
	fieldPassword
	fieldRegion
	numFields
)

// fieldNames maps the names of columns and JSON fields, in lower case and without spaces, underscores
// and hyphens, to their meaning.
var fieldNames = map[string]field{
	"url": fieldURL, "proxy": fieldURL, "proxyurl": fieldURL,
	"ip": fieldHost, "host": fieldHost, "address": fieldHost, "ipaddress": fieldHost, "proxyaddress": fieldHost,
	"ip:port": fieldHost, "ipport": fieldHost, "hostport": fieldHost, "host:port": fieldHost, "endpoint": fieldHost,
	"server": fieldHost, "hostname": fieldHost, "proxyip": fieldHost, "addr": fieldHost,
	"port": fieldPort, "proxyport": fieldPort,
	"protocol": fieldProtocol, "protocols": fieldProtocol, "type": fieldProtocol, "scheme": fieldProtocol,
	"proxytype": fieldProtocol,
	"user":      fieldUser, "username": fieldUser, "login": fieldUser, "proxyuser": fieldUser,
	"password": fieldPassword, "pass": fieldPassword, "pwd": fieldPassword, "proxypassword": fieldPassword,
	"region": fieldRegion, "country": fieldRegion, "countrycode": fieldRegion, "cc": fieldRegion,
	"geo": fieldRegion,
}

// fieldOf returns the meaning of a column or JSON field.
func fieldOf(name string) field {
	return fieldNames[strings.NewReplacer(" ", "", "_", "", "-", "").Replace(strings.ToLower(strings.TrimSpace(name)))]
}

// values are the fields of one proxy.
type values [numFields]string

// set sets a field. If several values have the same meaning, such as country and region, the first
// one that is not empty counts.
func (v *values) set(f field, value string) {
	if v[f] == "" {
		v[f] = value
	}
}

// spec returns the proxy. scheme is the scheme of a proxy without a protocol.
func (v *values) spec(scheme string) (spec upstream.Spec, err error) {
	address := v[fieldURL]
	switch {
	case v[fieldHost] == "" && address == "":
		return spec, errors.New("the address is missing")
	case v[fieldHost] == "":
	case v[fieldPort] == "":
		address = v[fieldHost] // may contain the port
	default:
		if address = v[fieldHost]; strings.Contains(address, ":") && !strings.HasPrefix(address, "[") {
			address = "[" + address + "]"
		}
		address += ":" + v[fieldPort]
	}
	if v[fieldProtocol] != "" {
		known := protocols(v[fieldProtocol])
		if len(known) == 0 {
			return spec, fmt.Errorf("the protocol %.20q is not supported; use "+upstream.ProxySchemes, v[fieldProtocol])
		}
		scheme = known[0]
	}
	if spec, _, err = parse(address, scheme); err != nil {
		return spec, err
	}
	if v[fieldUser] != "" || v[fieldPassword] != "" {
		spec.Address.Username, spec.Address.Password = v[fieldUser], upstream.Secret(v[fieldPassword])
	}
	if spec.Region == "" {
		spec.Region = v[fieldRegion]
	}
	return spec, nil
}

// protocols parses a list of protocols as free lists of proxies have it, such as "http|https" or
// "SOCKS4, SOCKS5", and returns the supported schemes. It returns nil if text is not such a list, or if
// no protocol is supported. In these lists "https" means an HTTP proxy that accepts CONNECT, so it
// becomes http.
func protocols(text string) (schemes []string) {
	socks4 := false
	for _, word := range strings.FieldsFunc(strings.ToLower(text),
		func(r rune) bool { return strings.ContainsRune("|/,; +&", r) }) {
		switch word {
		case "http", "https", "ssl", "connect":
			schemes = append(schemes, upstream.HTTP)
		case "socks5", "socks5h", "socks":
			schemes = append(schemes, upstream.SOCKS5)
		case "socks4", "socks4a":
			socks4 = true
		default:
			return nil
		}
	}
	if socks4 { // last, because SOCKS4 supports neither passwords nor IPv6
		schemes = append(schemes, upstream.SOCKS4)
	}
	return schemes
}
