package http1

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// trailersOf returns the trailers of a body whose trailer section is given, for a head with the given Connection field.
func trailersOf(section, connection string, response bool) (string, error) {
	r := NewReader(strings.NewReader("3\r\nabc\r\n0\r\n" + section + "\r\nnext"))
	r.responses = response
	fields := []Field{{Name: []byte("Connection"), Value: []byte(connection)}}
	Classify(fields)
	var b Body
	b.Start(r, Chunked, 0)
	b.KeepTrailers(fields)
	for {
		if b.Trailers() != nil {
			return "", io.ErrShortWrite // trailers before the end of the body
		}
		b.Peek(nil, 10) // does not change the result
		if _, err := b.Next(); err == io.EOF {
			break
		} else if err != nil {
			return "", err
		}
	}
	return string(b.Trailers()), nil
}

// Which trailer fields are kept, and which are dropped.
func TestTrailers(t *testing.T) {
	for _, response := range []bool{false, true} {
		for _, c := range []struct{ section, connection, want string }{
			{"", "", ""},
			{"X-Sum:  abc \r\ngrpc-status:0\r\n", "", "X-Sum: abc\r\ngrpc-status: 0\r\n"},
			{"X-Sum: 1\r\nX-Sum: 2\r\n", "", "X-Sum: 1\r\nX-Sum: 2\r\n"},
			{"X-Empty:\r\n", "", "X-Empty: \r\n"},
			{"X-Mine: 1\r\nX-Sum: 2\r\n", "close, x-mine, keep-alive", "X-Sum: 2\r\n"},
			{"Close: 1\r\n", "close", "Close: 1\r\n"},
			{"Content-Length: 5\r\nTransfer-Encoding: chunked\r\nHost: a\r\nConnection: close\r\nTE: x\r\n" +
				"Trailer: X\r\nUpgrade: x\r\nExpect: x\r\nVia: x\r\nMax-Forwards: 1\r\nRetry-After: 1\r\n" +
				"Proxy-Authorization: x\r\nProxy-Authenticate: x\r\nProxy-Connection: x\r\nKeep-Alive: x\r\n" +
				"Proxy-Loop: x\r\nX-Whirlpool-Attempts: 9\r\nx-whirlpool-retry: max_attempts=9\r\n", "", ""},
			{"AUTHORIZATION: a\r\nCookie: a\r\nset-cookie: a\r\nContent-Type: a\r\nContent-Encoding: gzip\r\n" +
				"Content-Range: a\r\nCache-Control: a\r\nIf-Match: a\r\nif-none-match: a\r\nRange: a\r\n" +
				"Location: a\r\n" +
				"X-Forwarded-For: a\r\nForwarded: a\r\nWWW-Authenticate: a\r\n", "", ""},
		} {
			got, err := trailersOf(c.section, c.connection, response)
			require.NoError(t, err, c.section)
			require.Equal(t, c.want, got, c.section)
		}
	}
}

// If a trailer section is not a list of valid fields, a request is refused, and a response loses its trailers.
func TestTrailersThatAreNotFields(t *testing.T) {
	for name, section := range map[string]string{
		"white space before the colon": "X-A: 1\r\nX-B : 2\r\nX-C: 3\r\n",
		"a folded line":                "X-A: 1\r\n b: 2\r\nX-C: 3\r\n",
		"a folded line, no colon":      "X-A: 1\r\n\tb\r\n \r\nX-C: 3\r\n",
		"a name that is not a token":   "X-A: 1\r\nX(B): 2\r\nX-C: 3\r\n",
		"too many bytes":               strings.Repeat("X-A: "+strings.Repeat("a", 1000)+"\r\n", 17),
	} {
		_, err := trailersOf(section, "", false)
		require.IsType(t, &ProtocolError{}, err, name)
		got, err := trailersOf(section, "", true)
		require.NoError(t, err, name)
		require.Empty(t, got, name)
	}
	for _, section := range []string{"X-A\r\n", ": 1\r\n", "X-A: 1\n", "X-A: a\rb\r\n", "X-A: a\x00\r\n"} {
		for _, response := range []bool{false, true} {
			_, err := trailersOf(section, "", response)
			require.IsType(t, &ProtocolError{}, err, section)
		}
	}
	got, err := trailersOf(strings.Repeat("X-A: "+strings.Repeat("a", 1000)+"\r\n", 16), "", false)
	require.NoError(t, err)
	require.Len(t, got, 16*1007)
}

// The names in a Trailer field are forwarded only if the field itself would be.
func TestNamesOfTrailers(t *testing.T) {
	names := func(values ...string) string {
		var fields []Field
		for _, v := range values {
			fields = append(fields, Field{Name: []byte("Trailer"), Value: []byte(v)})
		}
		Classify(fields)
		return string(AppendTrailerNames(nil, fields))
	}
	require.Equal(t, "X-A, X-B, X-C", names("X-A, Content-Length,, X-B", "set-cookie, X-C, a b"))
	require.Empty(t, names("Transfer-Encoding", ""))
	require.Empty(t, names())
}

// The fields of a net/http header become a section in the order of their names.
func TestTrailersOfAHeader(t *testing.T) {
	section := AppendTrailers(nil, map[string][]string{
		"X-B": {"1", "2"}, "X-A": {"a\r\nX-Evil: 1"}, "Content-Length": {"3"}, "X-C": nil, "X-D": {" 4 "},
	})
	require.Equal(t, "X-B: 1\r\nX-B: 2\r\nX-D: 4\r\n", string(section))
	var got []string
	for name, value := range Trailers(section) {
		got = append(got, string(name)+"="+string(value))
	}
	require.Equal(t, []string{"X-B=1", "X-B=2", "X-D=4"}, got)
	require.Nil(t, AppendTrailers(nil, map[string][]string{"X-A": {strings.Repeat("a", 20_000)}}))
	require.Equal(t, "0\r\nX-D: 4\r\n\r\n", string(AppendLastChunk(nil, []byte("X-D: 4\r\n"))))
}

// FuzzTrailers: the kept trailers are a section that is read again without a change, that has no field which frames or
// routes a message, and that net/http reads in the same way.
func FuzzTrailers(f *testing.F) {
	for _, s := range []string{"", "X-A: 1\r\n", "X-A : 1\r\n", "Content-Length: 1\r\nX-A:\t2 \r\n",
		"X-A: 1\r\n b: 2\r\n",
		"\r\nGET / HTTP/1.1\r\n", "X-A: 1\n", "X-A: \x80\x01\r\n", "Transfer-Encoding: chunked\r\n\r\n"} {
		f.Add(s, "close, x-b", true)
		f.Add(s, "", false)
	}
	f.Fuzz(func(t *testing.T, section, connection string, response bool) {
		kept, err := trailersOf(section, connection, response)
		if err != nil || kept == "" {
			return
		}
		again, err := trailersOf(kept, "", response)
		require.NoError(t, err)
		require.Equal(t, kept, again)
		for name := range Trailers([]byte(kept)) {
			require.True(t, kindOf(name).isOther(), "%q", kept)
		}
		if strings.ContainsFunc(kept, func(r rune) bool { return r < ' ' && r != '\r' && r != '\n' || r >= 0x7f }) {
			return // net/http refuses some of these bytes
		}
		raw := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n" +
			string(AppendLastChunk(nil, []byte(kept))) + "next"
		from := bufio.NewReader(strings.NewReader(raw))
		resp, err := http.ReadResponse(from, nil)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, resp.Body)
		require.NoError(t, err, "%q", kept)
		rest, err := io.ReadAll(from)
		require.NoError(t, err)
		require.Equal(t, "next", string(rest), "%q", kept)
		want := http.Header{}
		for name, value := range Trailers([]byte(kept)) {
			want.Add(string(name), string(value))
		}
		require.Equal(t, want, resp.Trailer)
	})
}
