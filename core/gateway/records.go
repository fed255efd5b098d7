package gateway

// maxFollowed is the number of bytes from a target after which its TLS records are not followed any more. Later, a
// target may end within a record because the client does not read: the target has then filled the buffers on the way to
// the client, which hold more than maxFollowed bytes.
const maxFollowed = 64 << 10

// tlsMaxCiphertext is the maximum length of a record's body with encryption (RFC 5246 section 6.2.3).
const tlsMaxCiphertext = tlsMaxRecord + 2048

// recordFollower follows the TLS records of a target by their headers. If the stream ends within a record, the tunnel
// was cut: the server of the target writes whole records. The zero value follows nothing.
type recordFollower struct {
	active    bool
	headerLen uint8 // bytes of the header of the next record; 0 while within the body of a record
	header    [tlsRecordHeader]byte
	bodyLeft  int // bytes left of the body of the current record
	total     int
}

// follow reads the next bytes of the target. It stops following if they are not TLS records, or after maxFollowed
// bytes.
func (r *recordFollower) follow(p []byte) {
	if !r.active {
		return
	}
	r.total += len(p)
	for len(p) > 0 {
		if r.bodyLeft > 0 {
			n := min(r.bodyLeft, len(p))
			r.bodyLeft -= n
			p = p[n:]
			continue
		}
		n := copy(r.header[r.headerLen:], p)
		r.headerLen += uint8(n)
		p = p[n:]
		if r.headerLen < tlsRecordHeader {
			break
		}
		r.headerLen = 0
		r.bodyLeft = int(r.header[3])<<8 | int(r.header[4])
		if r.header[0] < tlsChangeCipherSpec || r.header[0] > tlsHeartbeat || r.header[1] != 3 ||
			r.bodyLeft > tlsMaxCiphertext {
			r.active = false
			return
		}
	}
	r.active = r.total < maxFollowed
}

// endsInRecord reports whether the stream has a part of a record at its end.
func (r *recordFollower) endsInRecord() bool { return r.active && (r.bodyLeft > 0 || r.headerLen > 0) }
