package http1

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// answer is a response and the expected result of reading it.
type answer struct {
	raw     string
	method  string // GET if empty
	status  int    // 0 if the response is refused
	body    string
	fields  string // the fields that are forwarded, without framing
	ends    bool   // the connection ends after the response
	goElse  bool   // net/http's client interprets it differently, or not at all
	behind  string // bytes after the response, which are not read
	reasons string // part of the error
}

const (
	ok200   = "HTTP/1.1 200 OK\r\n"
	chunked = "Transfer-Encoding: chunked\r\n"
	empty   = "Content-Length: 0\r\n\r\n"
)

// ways returns readers of the bytes, divided into packets in different ways.
func ways(raw string) map[string]io.Reader {
	return map[string]io.Reader{
		"whole":       strings.NewReader(raw),
		"by the byte": iotest.OneByteReader(strings.NewReader(raw)),
	}
}

// answers are responses of the kinds in the tests of llhttp, net/http, curl and squid.
var answers = map[string]answer{
	"plain": {
		raw:    ok200 + "A: b\r\nContent-Length: 5\r\n\r\nhello",
		status: 200, body: "hello", fields: "A: b\r\n",
	},
	"a space before the colon": {
		raw:    ok200 + "X-XSS-Protection : 1\r\nContent-Length: 0\r\n\r\n",
		status: 200, fields: "X-XSS-Protection: 1\r\n",
	},
	"a tab before the colon": {
		raw:    ok200 + "A\t: 1\r\nContent-Length: 0\r\n\r\n",
		status: 200, fields: "A: 1\r\n", goElse: true,
	},
	"a length with a space before colon": {
		raw:    ok200 + "Content-Length : 5\r\n\r\nhello",
		status: 200, body: "hello",
	},
	"the same length twice": {
		raw:    ok200 + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
		status: 200, body: "hello",
	},
	"the same length as a list": {
		raw:    ok200 + "Content-Length: 5, 5\r\n\r\nhello",
		status: 200, body: "hello", goElse: true,
	},
	"a length with zeros": {
		raw:    ok200 + "Content-Length: 0000000000000000000000005\r\n\r\nhello",
		status: 200, body: "hello",
	},
	"lengths of different forms": {
		raw:    ok200 + "Content-Length: 5\r\nContent-Length: 05,5\r\n\r\nhello",
		status: 200, body: "hello", goElse: true,
	},
	"length and chunked": {raw: ok200 + "Content-Length: 3\r\n" + chunked + "\r\n5\r\nhello\r\n0\r\n\r\n",
		status: 200, body: "hello", ends: true},
	"chunked and length": {raw: ok200 + chunked + "Content-Length: 3\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		status: 200, body: "hello", ends: true},
	"a chunk's size with zeros": {raw: ok200 + chunked + "\r\n0000000000000005\r\nhello\r\n0000000000000000\r\n\r\n",
		status: 200, body: "hello"},
	// squid and HAProxy accept any number of zeros, Go's and curl's clients 16 digits.
	"a chunk's size with more zeros": {
		raw: ok200 + chunked + "\r\n" + strings.Repeat("0", 30) + "5\r\nhello\r\n" + strings.Repeat("0", 30) +
			"\r\n\r\n",
		status: 200, body: "hello", goElse: true,
	},
	// Go's client ignores the field and returns the chunks as they are.
	"chunked in HTTP/1.0": {
		raw:    "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + chunked + "\r\n5\r\nhello\r\n0\r\n\r\n",
		status: 200, body: "hello", ends: true, goElse: true,
	},
	"a folded trailer": {
		raw:    ok200 + chunked + "\r\n5\r\nhello\r\n0\r\nX: a\r\n b\r\n\tc: d\r\n\r\n",
		status: 200, body: "hello",
	},
	"a folded field": {
		raw:    ok200 + "A: b\r\n  c\r\n\td\r\nE: f\r\nContent-Length: 0\r\n\r\n",
		status: 200, fields: "A: b    c  \td\r\nE: f\r\n",
	},
	"a folded line of white space": {
		raw:    ok200 + "A: b\r\n \r\nContent-Length: 5\r\n\t \r\n\r\nhello",
		status: 200, body: "hello", fields: "A: b\r\n",
	},
	"folded lines of white space, bare LF": {
		raw:    "HTTP/1.1 200 OK\nA: b\n \n\t\n c\nContent-Length: 5\n \n\nhello",
		status: 200, body: "hello", fields: "A: b   \t  c\r\n",
	},
	"a folded length": {
		raw:    ok200 + "Content-Length:\r\n 5\r\n\r\nhello",
		status: 200, body: "hello",
	},
	"a folded length, bare LF": {
		raw:    "HTTP/1.1 200 OK\nContent-Length:\n\t5\n\nhello",
		status: 200, body: "hello",
	},
	"a folded field, bare LF": {
		raw:    "HTTP/1.1 200 OK\nA: b\n c\nContent-Length: 0\n\n",
		status: 200, fields: "A: b  c\r\n",
	},
	"bare LF": {
		raw:    "HTTP/1.1 200 OK\nA: b\nContent-Length: 5\n\nhello",
		status: 200, body: "hello", fields: "A: b\r\n",
	},
	"bare LF in the status line": {
		raw:    "HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\nhello",
		status: 200, body: "hello",
	},
	"bare LF in a field": {
		raw:    ok200 + "A: b\nContent-Length: 5\r\n\r\nhello",
		status: 200, body: "hello", fields: "A: b\r\n",
	},
	"bare LF ends the head": {raw: ok200 + "Content-Length: 5\r\n\nhello", status: 200, body: "hello"},
	"CRLF after bare LF":    {raw: "HTTP/1.1 200 OK\nContent-Length: 5\n\r\nhello", status: 200, body: "hello"},
	"bare LF ends the head, CRLF CRLF in the body": {
		raw:    "HTTP/1.1 200 OK\nContent-Length: 12\n\nA: b\r\n\r\n1234",
		status: 200, body: "A: b\r\n\r\n1234"},
	"no fields, bare LF": {raw: "HTTP/1.1 204 None\n\n", status: 204},
	"a control character": {
		raw:    ok200 + "Set-Cookie: a=\x01\x7f\v\r\nContent-Length: 0\r\n\r\n",
		status: 200, fields: "Set-Cookie: a=\x01\x7f\v\r\n", goElse: true,
	},
	"UTF-8 and Latin 1": {
		raw:    ok200 + "A: \xc3\xa4\xe4\r\nContent-Length: 0\r\n\r\n",
		status: 200, fields: "A: \xc3\xa4\xe4\r\n",
	},
	"two spaces before status": {raw: "HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n", status: 200},
	"two spaces behind status": {raw: "HTTP/1.1 200  OK\r\nContent-Length: 0\r\n\r\n", status: 200},
	"no reason":                {raw: "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", status: 200},
	"an empty reason":          {raw: "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", status: 200},
	"a reason of other bytes":  {raw: "HTTP/1.1 200 \xe4\x01\r\nContent-Length: 0\r\n\r\n", status: 200},
	"300 fields": {
		raw:    ok200 + strings.Repeat("A: b\r\n", 300) + "Content-Length: 0\r\n\r\n",
		status: 200, fields: strings.Repeat("A: b\r\n", 300),
	},
	"999 fields and a length": {
		raw:    ok200 + strings.Repeat("A: b\r\n", 999) + "Content-Length: 0\r\n\r\n",
		status: 200, fields: strings.Repeat("A: b\r\n", 999),
	},
	"1001 fields": {
		raw:    ok200 + strings.Repeat("A: b\r\n", 1000) + "Content-Length: 0\r\n\r\n",
		goElse: true, reasons: "more than 1000",
	},
	"40 interim answers": {
		raw:    strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 40) + ok200 + "Content-Length: 0\r\n\r\n",
		status: 200, goElse: true,
	},
	"interim answers of 2 kinds": {
		raw:    strings.Repeat("HTTP/1.1 103 Hints\r\nA: b\r\n\r\nHTTP/1.1 100 Go\n\n", 40) + ok200 + empty,
		status: 200, goElse: true,
	},
	"an interim one with length": {
		raw:    "HTTP/1.1 102 P\r\nContent-Length: 9\r\nTransfer-Encoding: x\r\n\r\n" + ok200 + empty,
		status: 200, goElse: true,
	},
	"64 KiB of interim answers": {
		raw:    strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 3000) + ok200 + "Content-Length: 0\r\n\r\n",
		goElse: true, reasons: "interim",
	},
	"204 with both framings": {
		raw:    "HTTP/1.1 204 None\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
		status: 204, ends: true,
	},
	"204 with a length": {raw: "HTTP/1.1 204 None\r\nContent-Length: 5\r\n\r\n", status: 204, ends: true},
	"204 with length 0": {raw: "HTTP/1.1 204 None\r\nContent-Length: 0\r\n\r\n", status: 204},
	"304 with both framings": {
		raw:    "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
		status: 304,
	},
	"304 with lengths at odds": {
		raw:    "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
		status: 304, goElse: true,
	},
	"304 with odd encodings": {
		raw:    "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: gzip\r\nContent-Length: x\r\n\r\n",
		status: 304, goElse: true,
	},
	"HEAD with both framings": {
		raw:    ok200 + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
		method: "HEAD", status: 200,
	},
	"HEAD with odd framings": {
		raw:    ok200 + "Content-Length: 5\r\nContent-Length: -6\r\n\r\n",
		method: "HEAD", status: 200, goElse: true,
	},
	"what a 204 is followed by": {raw: "HTTP/1.1 204 None\r\n\r\nbody", status: 204, behind: "body"},
	"CONNECT with bare LF": {
		raw:    "HTTP/1.0 200 Established\nA : b\n\n\r\n\r\nearly",
		method: "CONNECT", status: 200, fields: "A: b\r\n", ends: true, behind: "\r\n\r\nearly", goElse: true,
	},
	"CONNECT refused, bare LF": {
		raw:    "HTTP/1.1 403 No\nContent-Length: 3\n\nno!",
		method: "CONNECT", status: 403, body: "no!",
	},
	"status 999":             {raw: "HTTP/1.1 999 Denied\r\nContent-Length: 0\r\n\r\n", status: 999},
	"HTTP/1.0 until the end": {raw: "HTTP/1.0 200 OK\r\n\r\nhello", status: 200, body: "hello", ends: true},

	// Responses whose body has an uncertain end, or that could be divided into two responses.
	"lengths that differ": {
		raw:     ok200 + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
		reasons: "differ",
	},
	"lengths that differ in a list": {raw: ok200 + "Content-Length: 5, 6\r\n\r\nhello!", reasons: "differ"},
	"differing and chunked": {
		raw: ok200 + "Content-Length: 5\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	},
	"an empty member of a list":   {raw: ok200 + "Content-Length: 5,\r\n\r\nhello"},
	"an empty length":             {raw: ok200 + "Content-Length:\r\n\r\n", reasons: "digits"},
	"a negative length":           {raw: ok200 + "Content-Length: -5\r\n\r\nhello"},
	"a length with a plus":        {raw: ok200 + "Content-Length: +5\r\n\r\nhello"},
	"a length with a space in it": {raw: ok200 + "Content-Length: 5 5\r\n\r\nhello"},
	"a length in hexadecimal":     {raw: ok200 + "Content-Length: 0x5\r\n\r\nhello"},
	"a length past 2^63":          {raw: ok200 + "Content-Length: 99999999999999999999\r\n\r\nhello"},
	"a length with a fold in it":  {raw: ok200 + "Content-Length: 5\r\n 5\r\n\r\nhello"},
	"a length with a fold of white space in it": {
		raw: ok200 + "Content-Length: 5\r\n \r\n 5\r\n\r\nhello",
	},
	"a blank line first":       {raw: ok200 + " \r\nContent-Length: 0\r\n\r\n"},
	"a list with a fold in it": {raw: ok200 + "Content-Length: 5,\r\n 6\r\n\r\nhello!", reasons: "differ"},
	"a folded encoding":        {raw: ok200 + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", goElse: true},
	"identity":                 {raw: ok200 + "Transfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello"},
	"gzip, chunked":            {raw: ok200 + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"},
	"chunked twice": {
		raw: ok200 + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	},
	"chunked with a vertical tab": {raw: ok200 + "Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n"},
	"an empty encoding":           {raw: ok200 + "Transfer-Encoding:\r\nContent-Length: 5\r\n\r\nhello"},
	"chunked and length in HTTP/1.0": {
		raw:    "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
		goElse: true,
	},
	"NUL in a value":                  {raw: ok200 + "A: b\x00c\r\nContent-Length: 0\r\n\r\n"},
	"bare CR in a value":              {raw: ok200 + "A: b\rContent-Length: 0\r\n\r\n"},
	"CR CR LF":                        {raw: ok200 + "A: b\r\r\nContent-Length: 0\r\n\r\n"},
	"bare CR in a folded line":        {raw: ok200 + "A: b\r\n c\rd\r\nContent-Length: 0\r\n\r\n"},
	"bare CR in the status line":      {raw: "HTTP/1.1 200 O\rK\r\nContent-Length: 0\r\n\r\n", goElse: true},
	"NUL in the reason":               {raw: "HTTP/1.1 200 O\x00K\r\nContent-Length: 0\r\n\r\n", goElse: true},
	"a folded first field":            {raw: ok200 + " A: b\r\nContent-Length: 0\r\n\r\n"},
	"a name with a space in it":       {raw: ok200 + "A B: c\r\nContent-Length: 0\r\n\r\n", goElse: true},
	"a line without a colon":          {raw: ok200 + "A\r\nContent-Length: 0\r\n\r\n"},
	"an empty name":                   {raw: ok200 + ": a\r\nContent-Length: 0\r\n\r\n"},
	"a tab before the status":         {raw: "HTTP/1.1\t200 OK\r\nContent-Length: 0\r\n\r\n"},
	"a tab behind the status":         {raw: "HTTP/1.1 200\tOK\r\nContent-Length: 0\r\n\r\n"},
	"a status of 4 digits":            {raw: "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n"},
	"a status of 2 digits":            {raw: "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n"},
	"a status with a sign":            {raw: "HTTP/1.1 +20 OK\r\nContent-Length: 0\r\n\r\n", goElse: true},
	"HTTP/2.0":                        {raw: "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", goElse: true},
	"HTTP/1.2":                        {raw: "HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n", status: 200},
	"HTTP/0.9":                        {raw: "hello\r\n\r\n"},
	"ICY":                             {raw: "ICY 200 OK\r\n\r\n"},
	"a space first":                   {raw: " HTTP/1.1 200 OK\r\n\r\n"},
	"bare LF first":                   {raw: "\nHTTP/1.1 200 OK\r\n\r\n"},
	"a bare LF behind a chunk's size": {raw: ok200 + "Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n"},
	"a bare LF behind a chunk":        {raw: ok200 + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n"},
	"a chunk's size of 16 digits": {
		raw: ok200 + "Transfer-Encoding: chunked\r\n\r\n01000000000000005\r\nhello\r\n0\r\n\r\n",
	},
	"a chunk's size past 2^63": {
		raw: ok200 + "Transfer-Encoding: chunked\r\n\r\nf000000000000000\r\nhello\r\n0\r\n\r\n",
	},
	"101 unasked": {raw: "HTTP/1.1 101 Switching Protocols\r\n\r\n", goElse: true},
}

func TestResponseVectors(t *testing.T) {
	for name, a := range answers {
		for kind, src := range ways(a.raw) {
			t.Run(name+" "+kind, func(t *testing.T) {
				if a.method == "" {
					a.method = "GET"
				}
				r := NewReader(src)
				var p Response
				err := r.ReadResponse(&p, []byte(a.method))
				var b Body
				b.Start(r, p.Framing, p.Length)
				var body []byte
				if err == nil {
					body, err = io.ReadAll(&b)
				}
				if a.status == 0 {
					var bad *ProtocolError
					require.ErrorAs(t, err, &bad)
					assert.Contains(t, bad.Detail, a.reasons)
					return
				}
				require.NoError(t, err)
				assert.Equal(t, a.status, p.Status)
				assert.Equal(t, a.body, string(body))
				assert.Equal(t, a.fields, string(AppendFields(nil, p.Fields)))
				assert.Equal(t, a.ends, p.Close)
				if kind == "whole" {
					assert.Equal(t, a.behind, string(r.Buffered()))
				}
			})
		}
	}
}

// net/http's client reads each response with the same result, unless the table has goElse. The reasons for
// goElse are these: the client does not skip interim responses in this test, refuses control characters, and
// is stricter about responses without a body. Package http1 refuses some responses that net/http accepts,
// because other software could interpret them differently.
func TestResponsesAreReadAsByNetHTTP(t *testing.T) {
	for name, a := range answers {
		t.Run(name, func(t *testing.T) {
			h, err := http.ReadResponse(bufio.NewReader(strings.NewReader(a.raw)), &http.Request{Method: a.method})
			var body []byte
			if err == nil {
				body, err = io.ReadAll(h.Body)
			}
			same := a.status == 0 && err != nil
			if a.status != 0 {
				same = err == nil && h.StatusCode == a.status && string(body) == a.body
			}
			assert.Equal(t, !a.goElse, same, "%v", err)
		})
	}
}

// A head of a request that cannot become valid any more is refused before its end, however it is divided into
// packets. For other heads, the reader waits.
func TestUnfinishedRequests(t *testing.T) {
	const line = "GET http://a.test/ HTTP/1.1\r\n"
	for head, refused := range map[string]bool{
		"GET":                                false,
		"GET ":                               false,
		"GET http://a.test/ HTTP/1.1":        false,
		"GET http://a.test/ HTTP/1.1\r":      false,
		line:                                 false,
		line + "Host":                        false,
		line + "Host:":                       false,
		line + "Host: a.test\r":              false,
		line + "Host: a.test\r\n":            false,
		line + "Host: a.test\r\n\r":          false,
		line + "Host: a\tb\r\nA:\r\nB: \xe4": false,
		"\r":                                 false,
		"\r\n\r\nGET":                        false,
		line + strings.Repeat("A: b\r\n", MaxFields): false,

		"GET http://a.test/ HTTP/":      false,
		"GET http://a.test/ HTTP/1.":    false,
		line + "Content-Length: 5\r\nX": false,

		"GET http://a.test/ HTTX":                                     true,
		"GET http://a.test/ HTTP/3":                                   true,
		"GET http://a.test/ HTTP/1.1 ":                                true,
		"GET http://a.test/ HTTP/1.11":                                true,
		line + "Host: a\r\nHost: b\r\nX":                              true,
		line + "Content-Length: x\r\nA":                               true,
		line + "Content-Length: 1\r\nContent-Length: 2\r\nA":          true,
		line + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\nA": true,
		"G(T":                               true,
		"(":                                 true,
		"GET\t":                             true,
		"GET\r\n":                           true,
		"GET\n":                             true,
		"\n":                                true,
		"\rG":                               true,
		"GET http://a.test/\x01":            true,
		"GET http://a.test/ HTTP/1.1\n":     true,
		"GET http://a.test/\rb":             true,
		"GET http://a.test/\r\n":            true,
		"GET http://a.test/ HTTP/2.0\r\n":   true,
		"PRI * HTTP/2.0\r\n":                true,
		"GET http://a.test/ b HTTP/1.1\r\n": true,
		line + " Host":                      true,
		line + "Ho st":                      true,
		line + "Host :":                     true,
		line + ":":                          true,
		line + "Host\r\n":                   true,
		line + "A: b\n":                     true,
		line + "A: b\rc":                    true,
		line + "A: b\x00":                   true,
		line + "A: b\r\n c":                 true,
		line + strings.Repeat("A: b\r\n", MaxFields+1): true,
	} {
		for kind, src := range ways(head) {
			var q Request
			err := NewReader(src).ReadRequest(&q)
			if refused {
				var bad *ProtocolError
				assert.ErrorAs(t, err, &bad, "%q %s", head, kind)
			} else {
				assert.Equal(t, io.ErrUnexpectedEOF, err, "%q %s", head, kind)
			}
		}
	}
}

// A response is refused as soon as its status line cannot become valid.
func TestUnfinishedResponses(t *testing.T) {
	for head, refused := range map[string]bool{
		"H": false, "HTTP/1.": false, "HTTP/1.1 2": false, "\r": false, ok200: false, ok200 + "A : b": false,
		"HTTP/1.1 200\n": false, "\r\nHTT": false,
		"h": true, "HTTP/2": true, "hello": true, "HTTP/1.1 abc\r\n": true, "HTTP/1.1 2000\n": true, "\n": true,
		"\rH": true, "HH": true,
	} {
		for kind, src := range ways(head) {
			var p Response
			err := NewReader(src).ReadResponse(&p, nil)
			if refused {
				var bad *ProtocolError
				assert.ErrorAs(t, err, &bad, "%q %s", head, kind)
			} else {
				assert.Equal(t, io.ErrUnexpectedEOF, err, "%q %s", head, kind)
			}
			assert.Zero(t, p.Status)
		}
	}
}

// A minor version above 1 counts as 1 (RFC 9110 section 2.5).
func TestHigherMinorVersions(t *testing.T) {
	for _, minor := range "123456789" {
		var q Request
		raw := strings.Replace(get, "HTTP/1.1", "HTTP/1."+string(minor), 1) + "\r\n"
		require.NoError(t, NewReader(strings.NewReader(raw)).ReadRequest(&q))
		require.Equal(t, 1, q.Minor)
		require.False(t, q.Close)
	}
}

// ReadContinue returns a 100 and the final response, and skips other interim responses.
func TestReadContinue(t *testing.T) {
	const goOn = "HTTP/1.1 100 Continue\r\n\r\n"
	r := NewReader(strings.NewReader("HTTP/1.1 103 Hints\r\n\r\n" + goOn + goOn + ok200 + "\r\n"))
	var p Response
	for _, want := range []int{100, 100, 200} {
		require.NoError(t, r.ReadContinue(&p, []byte("PUT")))
		require.Equal(t, want, p.Status)
	}
}

// ReadUpgrade returns a 101 and the final response, skips other interim responses, and leaves the bytes after a 101.
func TestReadUpgrade(t *testing.T) {
	r := NewReader(strings.NewReader("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\n\r\n" +
		"HTTP/1.1 101 Switching Protocols\r\nContent-Length: 5\r\n\r\n" + ok200 + empty))
	var p Response
	for _, want := range []int{101, 200} {
		require.NoError(t, r.ReadUpgrade(&p, []byte("GET")))
		require.Equal(t, want, p.Status)
		require.Equal(t, NoBody, p.Framing)
	}
}

// FuzzReadResponse: a repaired response contains no CR, LF or NUL. If it is written and read again, it is the
// same response and needs no repair. The division into packets makes no difference.
func FuzzReadResponse(f *testing.F) {
	for _, a := range answers {
		f.Add([]byte(a.raw), a.method)
	}
	f.Fuzz(func(t *testing.T, raw []byte, method string) {
		read := func(src io.Reader) (p Response, body []byte, err error) {
			r := NewReader(src)
			if err = r.ReadResponse(&p, []byte(method)); err != nil {
				return p, nil, err
			}
			for i := range p.Fields { // because they are views of bytes that the body overwrites
				fd := &p.Fields[i]
				fd.Name, fd.Value = []byte(string(fd.Name)), []byte(string(fd.Value))
			}
			p.Reason = []byte(string(p.Reason))
			var b Body
			b.Start(r, p.Framing, p.Length)
			body, err = io.ReadAll(&b)
			return p, body, err
		}
		p, body, err := read(strings.NewReader(string(raw)))
		p1, body1, err1 := read(iotest.OneByteReader(strings.NewReader(string(raw))))
		if (err == nil) != (err1 == nil) {
			t.Fatalf("whole: %v, by the byte: %v", err, err1)
		}
		if err != nil {
			return
		}
		require.Equal(t, string(body), string(body1))
		facts := func(p *Response) [4]any { return [4]any{p.Status, p.Framing, p.Length, p.Close} }
		require.Equal(t, facts(&p), facts(&p1))
		require.Equal(t, string(AppendFields(nil, p.Fields)), string(AppendFields(nil, p1.Fields)))
		out := AppendStatusLine(nil, p.Status, p.Reason)
		for _, fd := range p.Fields {
			require.NotContains(t, string(fd.Value), "\r")
			require.NotContains(t, string(fd.Value), "\n")
			require.NotContains(t, string(fd.Value), "\x00")
			require.True(t, isToken(fd.Name))
		}
		framing := p.Framing
		if framing == UntilClose {
			framing = Chunked
		}
		out = AppendFields(out, p.Fields)
		out = AppendFraming(out, framing, p.Length)
		out = append(out, "\r\n"...)
		head := len(out)
		if framing == Chunked {
			out = append(AppendChunk(out, body), LastChunk...)
		} else {
			out = append(out, body...)
		}
		var again Response
		_, err = again.parse(out[:head], []byte(method), false)
		require.NoError(t, err, "%q", out)
		require.Equal(t, p.Status, again.Status)
		require.Equal(t, string(p.Reason), string(again.Reason))
		require.Equal(t, framing, again.Framing)
		require.Equal(t, string(AppendFields(nil, p.Fields)), string(AppendFields(nil, again.Fields)))
		_, body2, err := read(strings.NewReader(string(out)))
		require.NoError(t, err)
		require.Equal(t, string(body), string(body2))
	})
}
