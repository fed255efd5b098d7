package proxyhttp

import (
	"bytes"

	"github.com/whirlpool-proxy/whirlpool/core/http1"
)

// Upgrade returns the value of the Upgrade field that is sent to the target (RFC 9110 section 7.8), or nil if none is
// sent. fields are the header fields of the request, which was received as HTTP/1.minor. A client of HTTP/1.0 cannot
// upgrade. h2c is not sent (RFC 9113 section 3.1 removed it), because the gateway could not repeat the requests on an
// HTTP/2 connection.
func Upgrade(fields []http1.Field, minor int) (protocols []byte) {
	for i := range fields {
		f := &fields[i]
		if f.Kind != http1.Upgrade {
			continue
		}
		if protocols != nil || minor == 0 || len(f.Value) == 0 || hasElement(f.Value, "h2c") {
			return nil
		}
		protocols = f.Value
	}
	if protocols == nil {
		return nil
	}
	for i := range fields {
		if fields[i].Kind == http1.Connection && hasElement(fields[i].Value, "upgrade") {
			return protocols
		}
	}
	return nil
}

// hasElement reports whether a list with commas between its elements has the given element. The case of ASCII letters
// in the list makes no difference; the given element must be in lower case.
func hasElement(list []byte, lowerElement string) bool {
	for element := range bytes.SplitSeq(list, []byte(",")) {
		if http1.EqualFold(bytes.Trim(element, " \t"), lowerElement) {
			return true
		}
	}
	return false
}
