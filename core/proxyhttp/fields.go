package proxyhttp

import (
	"net/http"

	"github.com/whirlpool-proxy/whirlpool/core/http1"
)

var (
	hostName = []byte("Host")
	viaName  = []byte("Via")
	viaValue = [2][]byte{[]byte("1.0 whirlpool"), []byte("1.1 whirlpool")} // by minor version of HTTP/1
)

// Via returns the value of the Via field for a message that was received as HTTP/1.minor (RFC 9110
// section 7.6.3).
func Via(minor int) []byte { return viaValue[minor] }

// AppendRequestFields appends the header fields that are sent to the target. These are the fields of q without the
// hop-by-hop fields. The argument host is the value of the Host field (RFC 9112 section 3.2.2). Expect: 100-continue is
// not forwarded; see transport.Request.SendContinue.
func AppendRequestFields(dst, q []http1.Field, host []byte) []http1.Field {
	hasHost := false
	for i := range q {
		switch f := &q[i]; {
		case f.Kind == http1.Host:
			dst, hasHost = append(dst, http1.Field{Name: f.Name, Value: host, Kind: http1.Host}), true
		case f.HopByHop() || f.Kind == http1.Expect && http1.EqualFold(f.Value, "100-continue"):
		default:
			dst = append(dst, *f)
		}
	}
	if !hasHost { // HTTP/1.0, or a net/http header
		dst = append(dst, http1.Field{Name: hostName, Value: host, Kind: http1.Host})
	}
	return dst
}

// AppendVia appends a Via field for a request that was received as HTTP/1.minor.
func AppendVia(dst []http1.Field, minor int) []http1.Field {
	return append(dst, http1.Field{Name: viaName, Value: Via(minor), Kind: http1.Via})
}

// FieldsOf returns the header fields of h. It does not check them.
func FieldsOf(h http.Header) []http1.Field {
	fields := make([]http1.Field, 0, len(h))
	for name, values := range h {
		for _, v := range values {
			fields = append(fields, http1.Field{Name: []byte(name), Value: []byte(v)})
		}
	}
	http1.Classify(fields)
	return fields
}

// HeaderOf returns a response's fields without the hop-by-hop fields.
func HeaderOf(fields []http1.Field) http.Header {
	h := http.Header{}
	for i := range fields {
		if f := &fields[i]; !f.HopByHop() {
			h.Add(string(f.Name), string(f.Value))
		}
	}
	return h
}
