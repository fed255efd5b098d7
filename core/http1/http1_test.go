package http1

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const get = "GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n"

// smuggled are requests that two parsers might interpret differently (RFC 9112 sections 2.2, 5, 6 and 11.2).
// Each is refused and not repaired.
var smuggled = map[string]string{
	"two lengths that differ":     get + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
	"the same length twice":       get + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
	"a list of lengths":           get + "Content-Length: 5, 5\r\n\r\nhello",
	"length and chunked":          get + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"chunked and length":          get + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
	"chunked twice":               get + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
	"chunked, chunked":            get + "Transfer-Encoding: chunked, chunked\r\n\r\n",
	"gzip, chunked":               get + "Transfer-Encoding: gzip, chunked\r\n\r\n",
	"identity":                    get + "Transfer-Encoding: identity\r\n\r\n",
	"xchunked":                    get + "Transfer-Encoding: xchunked\r\n\r\n",
	"chunked with a vertical tab": get + "Transfer-Encoding: \vchunked\r\n\r\n",
	"chunked in HTTP/1.0": "POST http://a.test/ HTTP/1.0\r\nHost: a.test\r\n" +
		"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"a space before the colon":          get + "Content-Length : 5\r\n\r\nhello",
	"a tab before the colon":            get + "Transfer-Encoding\t: chunked\r\n\r\n",
	"obs-fold":                          get + "X: a\r\n b\r\n\r\n",
	"a folded first field":              "GET http://a.test/ HTTP/1.1\r\n Host: a.test\r\n\r\n",
	"bare LF after the request line":    "GET http://a.test/ HTTP/1.1\nHost: a.test\r\n\r\n",
	"bare LF between fields":            get + "X: a\nContent-Length: 5\r\n\r\nhello",
	"bare LF ends the head":             get + "\n",
	"bare CR in a value":                get + "X: a\rContent-Length: 5\r\n\r\n",
	"NUL in a value":                    get + "X: a\x00b\r\n\r\n",
	"NUL in a name":                     get + "X\x00: a\r\n\r\n",
	"a name with a space":               get + "X Y: a\r\n\r\n",
	"a line without a colon":            get + "nonsense\r\n\r\n",
	"an empty name":                     get + ": a\r\n\r\n",
	"a negative length":                 get + "Content-Length: -1\r\n\r\n",
	"a length with a plus":              get + "Content-Length: +5\r\n\r\nhello",
	"a hexadecimal length":              get + "Content-Length: 0x5\r\n\r\nhello",
	"a length past 2^63":                get + "Content-Length: 99999999999999999999\r\n\r\n",
	"an empty length":                   get + "Content-Length:\r\n\r\n",
	"two hosts":                         get + "Host: b.test\r\n\r\n",
	"no host":                           "GET http://a.test/ HTTP/1.1\r\n\r\n",
	"two spaces in the request line":    "GET  http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
	"a tab in the request line":         "GET\thttp://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
	"no version":                        "GET http://a.test/\r\nHost: a.test\r\n\r\n",
	"version 0.9":                       "GET http://a.test/ HTTP/0.9\r\nHost: a.test\r\n\r\n",
	"version 1.10":                      "GET http://a.test/ HTTP/1.10\r\nHost: a.test\r\n\r\n",
	"version 2.0":                       "GET http://a.test/ HTTP/2.0\r\nHost: a.test\r\n\r\n",
	"version 1.01":                      "GET http://a.test/ HTTP/1.01\r\nHost: a.test\r\n\r\n",
	"lower-case version":                "GET http://a.test/ http/1.1\r\nHost: a.test\r\n\r\n",
	"a method that is not a token":      "G(T http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
	"a control character in the target": "GET http://a.test/\x01 HTTP/1.1\r\nHost: a.test\r\n\r\n",
	"TLS instead of HTTP":               "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}

func TestRequestsThatCouldBeReadTwoWaysAreRefused(t *testing.T) {
	for name, raw := range smuggled {
		t.Run(name, func(t *testing.T) {
			var q Request
			err := NewReader(strings.NewReader(raw)).ReadRequest(&q)
			var bad *ProtocolError
			require.ErrorAs(t, err, &bad)
			assert.Equal(t, 400, bad.Status)
			assert.NotContains(t, bad.Detail, "a.test", "an error quotes nothing of the message")
			// The same request is read one byte at a time, because the division into packets must
			// not matter.
			err = NewReader(iotest.OneByteReader(strings.NewReader(raw))).ReadRequest(&q)
			require.ErrorAs(t, err, &bad)
		})
	}
}

func TestOversizedHeads(t *testing.T) {
	for name, raw := range map[string]string{
		"one long field":  get + "X: " + strings.Repeat("a", maxHead) + "\r\n\r\n",
		"a long target":   "GET http://a.test/" + strings.Repeat("a", maxHead) + " HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"too many fields": get + strings.Repeat("X: a\r\n", MaxFields) + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			var q Request
			var bad *ProtocolError
			require.ErrorAs(t, NewReader(strings.NewReader(raw)).ReadRequest(&q), &bad)
			assert.Equal(t, map[bool]int{true: 414, false: 431}[name == "a long target"], bad.Status)
		})
	}
}

func TestTheErrorDependsOnWhereTheConnectionEnds(t *testing.T) {
	var q Request
	assert.Equal(t, io.EOF, NewReader(strings.NewReader("")).ReadRequest(&q), "between messages")
	for i := 1; i < len(get); i++ {
		assert.Equal(t, io.ErrUnexpectedEOF, NewReader(strings.NewReader(get[:i])).ReadRequest(&q), "after %d bytes", i)
	}
}

func TestRequestHeads(t *testing.T) {
	raw := "\r\nPOST http://a.test/x?y HTTP/1.1\r\nhOST:a.test\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\n" +
		"X-Whirlpool-Retry: max_attempts=1\r\n" +
		"Expect: 100-continue\r\nContent-Length: 3\r\nAccept: */*\r\n\r\nabcGET http://b.test/ HTTP/1.0\r\n\r\n"
	for name, src := range map[string]io.Reader{"whole": strings.NewReader(raw),
		"by the byte": iotest.OneByteReader(strings.NewReader(raw))} {
		t.Run(name, func(t *testing.T) {
			r := NewReader(src)
			var q Request
			require.NoError(t, r.ReadRequest(&q))
			assert.Equal(t, "POST", string(q.Method))
			assert.Equal(t, "http://a.test/x?y", string(q.Target))
			assert.Equal(t, "a.test", string(q.Host))
			assert.True(t, q.Close)
			assert.True(t, q.Continue)
			onward := string(AppendFields(nil, q.Fields))
			assert.Contains(t, onward, "Accept: */*\r\n")
			for _, gone := range []string{"X-Mine", "Whirlpool", "Connection", "Content-Length"} {
				assert.NotContains(t, onward, gone)
			}
			var b Body
			b.Start(r, q.Framing, q.Length)
			body, err := io.ReadAll(&b)
			require.NoError(t, err)
			assert.Equal(t, "abc", string(body))
			require.NoError(t, r.ReadRequest(&q), "the pipelined request behind it")
			assert.Equal(t, 0, q.Minor)
			assert.True(t, q.Close)
		})
	}
}

// Every X-Whirlpool-* field is hop-by-hop, however long its name is.
func TestWhirlpoolFieldsAreHopByHop(t *testing.T) {
	for n := range 30 {
		name := "X-Whirlpool-" + strings.Repeat("a", n)
		var q Request
		require.NoError(t, NewReader(strings.NewReader(get+name+": 1\r\n\r\n")).ReadRequest(&q))
		assert.Equal(t, Whirlpool, q.Fields[1].Kind, name)
	}
}

func TestResponseFraming(t *testing.T) {
	const get, head, connect = "GET", "HEAD", "CONNECT"
	for _, c := range []struct {
		raw     string
		method  string
		framing Framing
		length  int64
		close   bool
	}{
		{"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", get, Length, 3, false},
		{"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", head, NoBody, 3, false},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", get, Chunked, -1, false},
		{"HTTP/1.1 200 OK\r\n\r\n", get, UntilClose, -1, true},
		{"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", get, Length, 3, true},
		{"HTTP/1.1 204 No Content\r\n\r\n", get, NoBody, -1, false},
		// a body may follow nevertheless
		{"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", get, NoBody, -1, true},
		{"HTTP/1.1 999 Request denied\r\nContent-Length: 3\r\n\r\n", get, Length, 3, false},
		{"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", get, NoBody, 9, false},
		{"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n" +
			"Content-Length: 0\r\n\r\n", get, NoBody, 0, false},
		{"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", get, NoBody, 0, false},
		// A 2xx response to a CONNECT has no framing, whatever its fields are. The framing of a refusal depends on its
		// fields.
		{"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", connect, NoBody, -1, false},
		{"HTTP/1.1 299 OK\r\nContent-Length: 3\r\nContent-Length: many\r\nTransfer-Encoding: gzip\r\n\r\n", connect,
			NoBody, -1, false},
		{"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", connect, NoBody, -1, true},
		{"HTTP/1.1 200 OK\r\n\r\n", connect, NoBody, -1, false},
		{"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\n", connect, Length, 3, false},
	} {
		var p Response
		require.NoError(t, NewReader(strings.NewReader(c.raw)).ReadResponse(&p, []byte(c.method)), c.raw)
		assert.Equal(t, c.framing, p.Framing, c.raw)
		assert.Equal(t, c.length, p.Length, c.raw)
		assert.Equal(t, c.close, p.Close, c.raw)
	}
	for _, raw := range []string{
		"HTTP/1.1 20 OK\r\n\r\n", "HTTP/1.1 099 OK\r\n\r\n", "HTTP/1.1 2000 OK\r\n\r\n", "HTTP/1.1 abc OK\r\n\r\n",
		"ICY 200 OK\r\n\r\n", "hello\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
		"HTTP/1.1 099 Low\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\n\r\n",
	} {
		var p Response
		err := NewReader(strings.NewReader(raw)).ReadResponse(&p, []byte(get))
		assert.Error(t, err, raw)
	}
}

func body(raw string, one bool) (string, error) {
	var src io.Reader = strings.NewReader(raw)
	if one {
		src = iotest.OneByteReader(src)
	}
	var b Body
	b.Start(NewReader(src), Chunked, -1)
	got, err := io.ReadAll(&b)
	return string(got), err
}

func TestChunkedBodies(t *testing.T) {
	for _, one := range []bool{false, true} {
		got, err := body("3\r\nabc\r\n00A;ext=\"v\"\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n", one)
		require.NoError(t, err)
		assert.Equal(t, "abc0123456789", got)
		for _, bad := range []string{
			"3\nabc\r\n0\r\n\r\n", "3\r\nabcd\r\n0\r\n\r\n", "g\r\n", "-1\r\n", "+1\r\na\r\n", "0x3\r\nabc\r\n",
			" 3\r\nabc\r\n", "\r\n",
			"1000000000000000\r\n", "3 x\r\nabc\r\n", "3;a\x00b\r\nabc\r\n", "0\r\nno colon\r\n\r\n",
			"0\r\n: x\r\n\r\n",
			"3\r\nabc\n0\r\n\r\n",
			strings.Repeat("0", maxChunkLine+10),
		} {
			_, err := body(bad, one)
			var pe *ProtocolError
			assert.ErrorAs(t, err, &pe, "%q", bad)
		}
		whole := "3\r\nabc\r\n0\r\n\r\n"
		for i := range len(whole) {
			_, err := body(whole[:i], one)
			assert.Equal(t, ErrTruncated, err, "cut after %d bytes", i)
		}
	}
}

func TestLengthBodies(t *testing.T) {
	var b Body
	b.Start(NewReader(strings.NewReader("abc")), Length, 5)
	_, err := io.ReadAll(&b)
	assert.Equal(t, ErrTruncated, err)
	b.Start(NewReader(strings.NewReader("abc")), UntilClose, -1)
	got, err := io.ReadAll(&b)
	require.NoError(t, err)
	assert.Equal(t, "abc", string(got))
	b.Start(NewReader(iotest.ErrReader(errors.New("reset"))), UntilClose, -1)
	_, err = io.ReadAll(&b)
	assert.EqualError(t, err, "reset")
}

// FuzzReadRequest: net/http reads an accepted request in the same way, and the division into
// packets makes no difference.
func FuzzReadRequest(f *testing.F) {
	for _, raw := range smuggled {
		f.Add([]byte(raw))
	}
	f.Add([]byte(get + "\r\n"))
	f.Add([]byte(get + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n"))
	f.Add([]byte(get + "Content-Length: 5\r\nConnection: close\r\n\r\nhelloGET"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := NewReader(bytes.NewReader(raw))
		var q Request
		err := r.ReadRequest(&q)
		var q1 Request
		err1 := NewReader(iotest.OneByteReader(bytes.NewReader(raw))).ReadRequest(&q1)
		if (err == nil) != (err1 == nil) {
			t.Fatalf("whole: %v, by the byte: %v", err, err1)
		}
		if err != nil {
			return
		}
		src := bufio.NewReader(bytes.NewReader(bytes.TrimLeft(raw, "\r\n")))
		h, herr := http.ReadRequest(src)
		if herr != nil {
			return // net/http is stricter, for example about URLs, but never less strict about framing; see below
		}
		if h.Method != string(q.Method) || h.RequestURI != string(q.Target) {
			t.Fatalf("%s %s, net/http: %s %s", q.Method, q.Target, h.Method, h.RequestURI)
		}
		length := int64(0)
		switch q.Framing {
		case Length:
			length = q.Length
		case Chunked:
			length = -1
		}
		if h.ContentLength != length {
			t.Fatalf("framing %d length %d, net/http: %d", q.Framing, q.Length, h.ContentLength)
		}
		if q.Minor == 0 && q.Framing == Chunked {
			t.Fatal("chunked in HTTP/1.0")
		}
		var b Body
		b.Start(r, q.Framing, q.Length)
		got, err := io.ReadAll(&b)
		want, herr := io.ReadAll(h.Body)
		if err == nil && herr == nil && !bytes.Equal(got, want) {
			t.Fatalf("body %q, net/http: %q", got, want)
		}
		if err == nil && herr != nil && q.Framing == Length {
			t.Fatalf("body %q, net/http: %v", got, herr)
		}
	})
}

func TestARequestHeadAllocatesNothing(t *testing.T) {
	raw := []byte(get + "User-Agent: x\r\nAccept: */*\r\nAccept-Encoding: gzip\r\n\r\n")
	src := bytes.NewReader(raw)
	r := NewReader(src)
	var q Request
	n := testing.AllocsPerRun(1000, func() {
		src.Reset(raw)
		if err := r.ReadRequest(&q); err != nil {
			t.Fatal(err)
		}
	})
	assert.Zero(t, n)
}

// AwaitRequest returns when the head is whole, and leaves it to ReadRequest. It refuses a head that cannot become valid
// any more at once.
func TestAwaitRequest(t *testing.T) {
	const next = "GET http://b/ HTTP/1.1\r\nHost: b\r\n\r\n"
	r := NewReader(iotest.OneByteReader(strings.NewReader("\r\n" + get + "\r\n" + next)))
	parts := 0
	r.OnPart = func() { parts++ }
	var q Request
	for _, want := range []string{"http://a.test/", "http://b/"} {
		require.NoError(t, r.AwaitRequest())
		require.NoError(t, r.AwaitRequest(), "it consumes nothing")
		before := parts
		require.Positive(t, before)
		require.NoError(t, r.ReadRequest(&q))
		require.Equal(t, want, string(q.Target))
		require.Equal(t, before, parts, "ReadRequest waits no more")
	}
	require.ErrorIs(t, r.AwaitRequest(), io.EOF)
	for raw, want := range map[string]string{
		get:                                   io.ErrUnexpectedEOF.Error(),
		get + "A : b\r\n":                     "name",
		"GET http://a/ HTTP/1.1\n":            "LF",
		"\x16\x03":                            "TLS",
		"GET /" + strings.Repeat("a", 65<<10): "64 KiB",
	} {
		require.ErrorContains(t, NewReader(strings.NewReader(raw)).AwaitRequest(), want, "%.40q", raw)
	}
}

func TestAResponseHeadAllocatesNothing(t *testing.T) {
	for _, raw := range []string{
		"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n",
		"HTTP/1.1  200 OK\nServer : x\n y\nContent-Length: 0, 0\n\n",
	} {
		src := strings.NewReader(raw)
		r := NewReader(src)
		var p Response
		get := []byte("GET")
		n := testing.AllocsPerRun(1000, func() {
			src.Reset(raw)
			if err := r.ReadResponse(&p, get); err != nil {
				t.Fatal(err)
			}
		})
		if raw[8:10] == " 2" { // because the repair of one error may remove the error that led to it
			assert.Zero(t, n)
		} else {
			assert.LessOrEqual(t, n, 1.0)
		}
	}
}

func BenchmarkReadResponse(b *testing.B) {
	raw := []byte("HTTP/1.1 200 OK\r\nServer: x\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n" +
		"Content-Type: text/html\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n")
	src := bytes.NewReader(raw)
	r := NewReader(src)
	var p Response
	get := []byte("GET")
	b.ReportAllocs()
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		src.Reset(raw)
		if err := r.ReadResponse(&p, get); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadRequest(b *testing.B) {
	raw := []byte(get + "User-Agent: curl/8\r\nAccept: */*\r\nAccept-Encoding: gzip\r\nCookie: a=b; c=d\r\n\r\n")
	src := bytes.NewReader(raw)
	r := NewReader(src)
	var q Request
	b.ReportAllocs()
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		src.Reset(raw)
		if err := r.ReadRequest(&q); err != nil {
			b.Fatal(err)
		}
	}
}

// A reader that is released between messages continues to read correctly, and never shares a buffer with
// another reader.
func TestReadersShareNoBuffer(t *testing.T) {
	body := strings.Repeat("x", 40<<10)
	message := "POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 40960\r\n\r\n" + body
	readers := make([]*Reader, 4)
	for i := range readers {
		readers[i] = NewReader(strings.NewReader(strings.Repeat(strings.ReplaceAll(message, "x", string(rune('a'+i))),
			20)))
	}
	for round := range 20 {
		for i, r := range readers {
			var q Request
			require.NoError(t, r.ReadRequest(&q))
			var b Body
			b.Start(r, q.Framing, q.Length)
			got, err := io.ReadAll(&b)
			require.NoError(t, err)
			require.Equal(t, strings.ReplaceAll(body, "x", string(rune('a'+i))), string(got))
			if (round+i)%2 == 0 {
				r.Release()
				require.Equal(t, len(r.Buffered()) == 0, r.buf == nil)
			}
		}
	}
}

// TLS or SOCKS on a port for HTTP is refused at its first byte, in both directions, because it may never
// contain the end of a head.
func TestAnotherProtocolIsNotWaitedFor(t *testing.T) {
	for _, first := range []string{"\x16\x03\x01\x02\x00\x01", "\x15\x03\x01", "\x05\x01\x00", "\x04\x01\x00\x50",
		"\x00", "\xff", "\r\n\x05"} {
		from, to := io.Pipe()
		t.Cleanup(func() { from.Close() })
		go io.WriteString(to, first) // and sends nothing more
		var bad *ProtocolError
		var q Request
		require.ErrorAs(t, NewReader(from).ReadRequest(&q), &bad, "%q", first)
		from, to = io.Pipe()
		t.Cleanup(func() { from.Close() })
		go io.WriteString(to, first)
		var p Response
		require.ErrorAs(t, NewReader(from).ReadResponse(&p, nil), &bad, "%q", first)
	}
}
