package gateway

// Constants of TLS's record layer and ClientHello (RFC 8446 sections 4.1.2, 4.2.10 and 5.1).
const (
	tlsRecordHeader     = 5
	tlsChangeCipherSpec = 20 // the first type of a record
	tlsAlert            = 21 // type of a record
	tlsHandshake        = 22 // type of a record
	tlsHeartbeat        = 24 // the last type of a record
	tlsClientHello      = 1  // type of a handshake message
	tlsFatal            = 2  // level of an alert
	tlsHandshakeHeader  = 4
	tlsMaxRecord        = 1 << 14
	tlsEarlyData        = 42 // type of an extension
)

// refusesHello reports whether p, the beginning of the reply to a ClientHello, is a fatal alert, or is not TLS.
func refusesHello(p []byte) bool {
	if p[0] == tlsAlert && len(p) > tlsRecordHeader {
		return p[tlsRecordHeader] == tlsFatal
	}
	return p[0] < tlsChangeCipherSpec || p[0] > tlsHeartbeat
}

type helloKind uint8

const (
	notHello     helloKind = iota // anything else, such as a ClientHello with more bytes behind it, or with early data
	partialHello                  // a part of a ClientHello, or nothing
	wholeHello                    // exactly one ClientHello
)

// classifyHello returns the kind of b, which holds all bytes that the client has sent so far. A ClientHello without
// early data has no effect at the target, and may therefore be sent again. The result needed is the length that b must
// reach before its kind can change. It is 0 if any additional byte may change the kind, or if the kind is final.
func classifyHello(b []byte) (kind helloKind, needed int) {
	var message []byte // the handshake message; a slice of b if it is in one record
	for needed = tlsRecordHeader; len(b) > 0; needed += tlsRecordHeader {
		if b[0] != tlsHandshake || len(b) > 1 && b[1] != 3 {
			return notHello, 0
		}
		if len(b) < tlsRecordHeader {
			break
		}
		size := int(b[3])<<8 | int(b[4])
		if size == 0 || size > tlsMaxRecord {
			return notHello, 0
		}
		needed += size
		end := min(tlsRecordHeader+size, len(b))
		record := b[tlsRecordHeader:end:end]
		if message == nil {
			message = record
		} else {
			message = append(message, record...)
		}
		b = b[end:]
		if len(record) < size {
			break
		}
	}
	if len(message) > 0 && message[0] != tlsClientHello {
		return notHello, 0
	}
	if len(message) < tlsHandshakeHeader {
		return partialHello, 0
	}
	size := int(message[1])<<16 | int(message[2])<<8 | int(message[3])
	switch body := message[tlsHandshakeHeader:]; {
	case len(body) < size:
		return partialHello, needed
	case len(body) > size || len(b) > 0 || hasEarlyData(body):
		return notHello, 0
	}
	return wholeHello, 0
}

// hasEarlyData reports whether the body of a ClientHello has the extension early_data (RFC 8446
// section 4.2.10). It also returns true if the body is malformed.
func hasEarlyData(body []byte) bool {
	rest, ok := skipField(body, 2+32, 0)         // version and random
	for _, lengthBytes := range []int{1, 2, 1} { // session id, cipher suites, compression methods
		if ok {
			rest, ok = skipField(rest, 0, lengthBytes)
		}
	}
	if ok && len(rest) == 0 {
		return false // no extensions
	}
	if !ok || len(rest) < 2 || int(rest[0])<<8|int(rest[1]) != len(rest)-2 {
		return true
	}
	for rest = rest[2:]; len(rest) > 0; {
		if len(rest) < 4 || rest[0] == 0 && rest[1] == tlsEarlyData {
			return true
		}
		if rest, ok = skipField(rest, 2, 2); !ok {
			return true
		}
	}
	return false
}

// skipField skips n bytes of b and the field that follows them, and returns the rest of b. The field begins with its
// length, which is encoded in lengthBytes bytes. If b is too short, skipField returns false.
func skipField(b []byte, n, lengthBytes int) (rest []byte, ok bool) {
	if len(b) < n+lengthBytes {
		return nil, false
	}
	size := 0
	for _, d := range b[n : n+lengthBytes] {
		size = size<<8 | int(d)
	}
	b = b[n+lengthBytes:]
	if len(b) < size {
		return nil, false
	}
	return b[size:], true
}
