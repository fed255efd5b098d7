package proxylist

import (
	"errors"
	"slices"
	"strings"
	"unicode"

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// field is the meaning of a column of a table, or of a field of a JSON object.
type field uint8

const (
	fieldUnused field = iota
	fieldURL
	fieldHost
	fieldPort
	fieldProtocol
	fieldUser
	fieldPassword
	fieldRegion
	fieldLogin     // user and password in one
	fieldSOCKSPort // port for SOCKS5
	fieldHTTP      // a word such as yes, or the port for HTTP; SOCKS4 and SOCKS5 have such fields, too
	fieldSOCKS4
	fieldSOCKS5
	numFields
)

// fieldNames maps the names of columns and JSON fields, in lower case and without spaces and the signs _ - . / ( ), to
// their meaning.
var fieldNames = map[string]field{
	"url": fieldURL, "proxy": fieldURL, "proxyurl": fieldURL,
	"ip": fieldHost, "host": fieldHost, "address": fieldHost, "ipaddress": fieldHost, "proxyaddress": fieldHost,
	"ip:port": fieldHost, "ipport": fieldHost, "hostport": fieldHost, "host:port": fieldHost, "endpoint": fieldHost,
	"server": fieldHost, "hostname": fieldHost, "proxyip": fieldHost, "addr": fieldHost, "proxyhost": fieldHost,
	"proxyserver": fieldHost, "hostip": fieldHost, "iphost": fieldHost, "serveraddress": fieldHost,
	"serverip": fieldHost, "address:port": fieldHost, "entrypoint": fieldHost,
	"port": fieldPort, "proxyport": fieldPort, "serverport": fieldPort, "porthttp": fieldPort, "httpport": fieldPort,
	"porthttps": fieldPort, "httpsport": fieldPort, "portnumber": fieldPort,
	"socks5port": fieldSOCKSPort, "portsocks5": fieldSOCKSPort, "socksport": fieldSOCKSPort,
	"portsocks": fieldSOCKSPort,
	"http":      fieldHTTP, "https": fieldHTTP, "ssl": fieldHTTP, "socks4": fieldSOCKS4, "socks5": fieldSOCKS5,
	"protocol": fieldProtocol, "protocols": fieldProtocol, "type": fieldProtocol, "scheme": fieldProtocol,
	"proxytype": fieldProtocol, "ptype": fieldProtocol, "proto": fieldProtocol, "proxyprotocol": fieldProtocol,
	"user": fieldUser, "username": fieldUser, "login": fieldUser, "proxyuser": fieldUser,
	"proxyusername": fieldUser, "proxylogin": fieldUser,
	"password": fieldPassword, "pass": fieldPassword, "pwd": fieldPassword, "proxypassword": fieldPassword,
	"passwd": fieldPassword, "proxypass": fieldPassword,
	"auth": fieldLogin, "credentials": fieldLogin, "authentication": fieldLogin, "proxyauth": fieldLogin,
	"proxyauthorization": fieldLogin,
	"region":             fieldRegion, "country": fieldRegion, "countrycode": fieldRegion, "cc": fieldRegion,
	"geo": fieldRegion, "geolocation": fieldRegion, "ipdata": fieldRegion, "countryname": fieldRegion,
	"countryiso": fieldRegion, "isocode": fieldRegion,
}

func fieldOf(name string) field {
	return fieldNames[plainName(name)]
}

var signRemover = strings.NewReplacer(" ", "", "_", "", "-", "", ".", "", "/", "", "(", "", ")", "")

type fieldValues [numFields]string

// The method set sets the value of a field. If several columns have the same meaning, such as country and region, the
// first value that is not empty stays. There are two exceptions: a URL with a scheme replaces a URL without one, and in
// the field of the host, a value without a scheme replaces a URL.
func (v *fieldValues) set(f field, value string) {
	hadScheme, hasScheme := strings.Contains(v[f], "://"), strings.Contains(value, "://")
	if v[f] == "" || value != "" && (f == fieldURL && !hadScheme && hasScheme ||
		f == fieldHost && hadScheme && !hasScheme) {
		v[f] = value
	}
}

// hasAddress reports whether the values have the address of a proxy.
func (v *fieldValues) hasAddress() bool {
	return v[fieldHost] != "" && (v[fieldPort] != "" || strings.Contains(v[fieldHost], ":")) ||
		strings.Contains(v[fieldURL], ":")
}

// resolveProtocol sets the port and the protocol from the fields that are named after a protocol, such as socks5. The
// value of such a field is the port, or a word such as "yes".
func (v *fieldValues) resolveProtocol() {
	for _, protocolField := range []struct {
		field    field
		protocol string
	}{{fieldHTTP, upstream.HTTP}, {fieldSOCKS5, upstream.SOCKS5}, {fieldSOCKS4, upstream.SOCKS4}} {
		value := strings.ToLower(v[protocolField.field])
		isOwnPort := value != "1" && isPort(value) && v[fieldPort] == ""
		if v[fieldProtocol] == "" && (isOwnPort || slices.Contains(yesWords, value)) {
			v[fieldProtocol] = protocolField.protocol
		}
		if isOwnPort {
			v[fieldPort] = value
		}
	}
	if v[fieldPort] == "" && v[fieldSOCKSPort] != "" {
		v[fieldPort], v[fieldProtocol] = v[fieldSOCKSPort], upstream.SOCKS5
	}
}

// yesWords has the words that mean "yes" in a field.
var yesWords = []string{"1", "true", "yes", "y", "+", "✓", "✔"}

// spec returns the proxy that the fields describe. It has the given scheme if neither the protocol field nor the
// address names one.
func (v *fieldValues) spec(scheme string) (spec upstream.Spec, err error) {
	v.resolveProtocol()
	address := v[fieldURL]
	switch {
	case v[fieldHost] == "" && address == "":
		return spec, errors.New("the address is missing")
	case v[fieldHost] == "" && v[fieldPort] != "" && !strings.Contains(address, ":"):
		address += ":" + v[fieldPort]
	case v[fieldHost] == "":
	case v[fieldPort] == "", isHostPort(v[fieldHost]), strings.Contains(v[fieldHost], "://"):
		address = v[fieldHost] // may contain the port
	default:
		address = joinPort(v[fieldHost], v[fieldPort])
	}
	if v[fieldProtocol] != "" {
		schemes := parseProtocols(v[fieldProtocol])
		if len(schemes) == 0 && descriptionOf(v[fieldProtocol]) < possibleDescription {
			return spec, &schemeError{v[fieldProtocol], "protocol"}
		}
		if len(schemes) > 0 {
			scheme = schemes[0]
		}
	}
	if spec, _, err = parseAddress(address, scheme); err != nil {
		return spec, err
	}
	if isPlaceholder(v[fieldUser]) && (v[fieldPassword] == "" || isPlaceholder(v[fieldPassword])) {
		v[fieldUser], v[fieldPassword] = "", ""
	}
	if v[fieldUser] != "" || v[fieldPassword] != "" {
		spec.Address.Username, spec.Address.Password = v[fieldUser], upstream.Secret(v[fieldPassword])
		err = checkTemplates(&spec.Address)
	}
	if spec.Region == "" && strings.ContainsFunc(v[fieldRegion], unicode.IsLetter) { // ignores texts such as --
		spec.Region = v[fieldRegion]
	}
	return spec, err
}

// protocolNames replaces other spellings of protocols.
var protocolNames = strings.NewReplacer("http(s)", "http", "socks4/5", "socks4/socks5", "socks 4", "socks4",
	"socks 5", "socks5", "socks v4", "socks4", "socks v5", "socks5", "socks-4", "socks4", "socks-5", "socks5")

// parseProtocols returns the supported schemes of a list of protocols such as "http|https" or "SOCKS4, SOCKS5"; nil if
// the text is no such list, or no protocol is supported. In free lists of proxies, "https" means an HTTP proxy that
// accepts CONNECT, so it becomes http.
func parseProtocols(text string) (schemes []string) {
	socks4 := false
	for _, word := range strings.FieldsFunc(protocolNames.Replace(strings.ToLower(text)),
		func(r rune) bool { return strings.ContainsRune("|/,; +&[]'\"", r) }) {
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
