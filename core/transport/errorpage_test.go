package transport

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// measured is an answer of a real proxy: a section of testdata/ownerrors, of which
// "== get_dns => privoxy target_unreachable dns_error" is the first line. "=> -" is
// an answer that no mark may take for the proxy's own.
type recorded struct{ name, want, response string }

func readRecorded(t *testing.T, file string) (all []recorded) {
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	for _, section := range strings.Split("\n"+string(data), "\n== ")[1:] {
		title, answer, _ := strings.Cut(section, "\n")
		name, want, _ := strings.Cut(title, " => ")
		if strings.Contains(title, ": ") {
			continue // there was no answer
		}
		head, body, _ := strings.Cut(answer+"\n", "\n\n")
		all = append(all, recorded{name, want, strings.ReplaceAll(head, "\n", "\r\n") + "\r\n\r\n" + body})
	}
	require.NotEmpty(t, all, file)
	return all
}

// pageOf reads an answer to a GET or a CONNECT.
func pageOf(t *testing.T, answer string, connect bool) *page {
	var r http1.Response
	reader := http1.NewReader(strings.NewReader(answer))
	require.NoError(t, reader.ReadResponse(&r, []byte("GET")), answer)
	return &page{status: r.Status, reason: r.Reason, fields: r.Fields, body: reader.Buffered(), connect: connect}
}

func (o *ErrorPage) short() string {
	if o == nil {
		return "-"
	}
	return strings.TrimSpace(o.Signature + " " + o.Kind.String() + " " + o.Reason)
}

// TestMeasuredAnswers: what real proxies wrote themselves is recognised, and what
// they relayed is not.
func TestMeasuredAnswers(t *testing.T) {
	files, err := filepath.Glob("testdata/ownerrors/*.txt")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(files), 17)
	for _, file := range files {
		for _, m := range readRecorded(t, file) {
			p := pageOf(t, m.response, strings.HasPrefix(m.name, "connect"))
			got := "-"
			if p.status >= 400 {
				got = findErrorPage(p, nil, 0).short()
			}
			assert.Equal(t, m.want, got, "%s: %s", file, m.name)
		}
	}
}

// TestSquidsViaIsItsOwn: squid adds Via to its own pages as to those of a squid that
// is the target; only one that the asked proxy wrote is its own.
func TestSquidsViaIsItsOwn(t *testing.T) {
	page := func(via string) *page {
		return pageOf(t, "HTTP/1.1 503 x\r\nServer: squid/5.7\r\nContent-Type: text/html;charset=utf-8\r\nX-Squid-Error: ERR_DNS_FAIL 0\r\n"+via+"\r\n", false)
	}
	const one = "Via: 1.1 a (squid/5.7)\r\n"
	require.Equal(t, &ErrorPage{Signature: "x-squid-error", Kind: verdict.ErrorPageUnreachable, Reason: "dns_error",
		Detail: "ERR_DNS_FAIL"}, findErrorPage(page(one), nil, 0))
	require.NotNil(t, findErrorPage(page(""), nil, 0))
	require.Nil(t, findErrorPage(page(one), nil, viaMissing), "this proxy adds no Via: it is the target's")
	require.NotNil(t, findErrorPage(page(""), nil, viaMissing))
	require.Nil(t, findErrorPage(page(one+"Via: 1.1 b (squid/5.7)\r\n"), nil, 0))
	require.Nil(t, findErrorPage(page("Via: 1.1 a (squid/5.7), 1.1 b (squid/5.7)\r\n"), nil, 0))
	require.Nil(t, findErrorPage(page("Via: 1.1 vm (tinyproxy/1.11.1)\r\n"), nil, 0))
	require.Nil(t, findErrorPage(pageOf(t, "HTTP/1.1 503 x\r\nServer: ATS\r\nContent-Type: text/html\r\nX-Squid-Error: ERR_DNS_FAIL 0\r\n\r\n", false), nil, 0))
}

// TestDetailIsSquidsNameOnly: nothing else of the field goes into logs.
func TestDetailIsSquidsNameOnly(t *testing.T) {
	for value, want := range map[string]string{
		"ERR_DNS_FAIL 0": "ERR_DNS_FAIL", "ERR_MINE": "ERR_MINE", "": "", "403 Forbidden": "", "ERR_<b>": "",
		"ERR_" + strings.Repeat("A", 70): "",
	} {
		require.Equal(t, want, squidPage([]byte(value)), value)
	}
}

func TestProxyStatus(t *testing.T) {
	for _, c := range []struct {
		values    []string
		whirlpool bool
		reason    string
		ok        bool
	}{
		{[]string{"a; error=dns_error"}, false, "dns_error", true},
		{[]string{"\"a b\"; error=http_request_denied; details=\"x, y; error=z\""}, false, "http_request_denied", true},
		{[]string{"far; received-status=200, near; error=connection_timeout"}, false, "connection_timeout", true},
		{[]string{"far; received-status=200", "near; error=connection_timeout"}, false, "connection_timeout", true},
		{[]string{"far; error=dns_error, near"}, false, "", false}, // near relayed it
		{[]string{"a; error=of_its_own"}, false, "", true},         // an extension
		{[]string{"a; error=\"dns_error\""}, false, "", false},     // no token
		{[]string{"a; error"}, false, "", false},                   //
		{[]string{"(a b); error=dns_error"}, false, "", false},     // no item
		{[]string{"a; error=dns_error,"}, false, "", false},        // malformed as a whole
		{[]string{"a; error=dns error"}, false, "", false},         //
		{[]string{""}, false, "", false},                           //
		{[]string{"whirlpool; error=connection_refused"}, true, "connection_refused", true},
		{[]string{"cdn; error=connection_refused"}, true, "", false}, // relayed by a gateway of our kind
	} {
		reason, ok := proxyStatusError(c.values, c.whirlpool)
		require.Equal(t, c.reason, reason, c.values)
		require.Equal(t, c.ok, ok, c.values)
	}
}

// FuzzOwnError: nothing that an answer holds makes the marks panic, and what they
// say is of a known kind.
func FuzzOwnError(f *testing.F) {
	files, err := filepath.Glob("testdata/ownerrors/*.txt")
	require.NoError(f, err)
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(f, err)
		for _, section := range strings.Split(string(data), "\n== ")[1:] {
			_, answer, _ := strings.Cut(section, "\n")
			f.Add(strings.ReplaceAll(answer, "\n", "\r\n"), false)
		}
	}
	f.Add("HTTP/1.1 502 x\r\nProxy-Status: a; error=dns_error\r\n\r\n", true)
	f.Fuzz(func(t *testing.T, answer string, connect bool) {
		var r http1.Response
		reader := http1.NewReader(strings.NewReader(answer))
		if reader.ReadResponse(&r, []byte("GET")) != nil {
			return
		}
		own := findErrorPage(&page{status: r.Status, reason: r.Reason, fields: r.Fields, connect: connect}, nil, 0)
		if own == nil {
			return
		}
		require.NotEmpty(t, own.Signature)
		_, known := tokenKinds[own.Reason]
		require.True(t, known || own.Reason == "", own.Reason)
		require.NotEqual(t, verdict.NoErrorPage, own.Kind)
	})
}

// TestRules: all parts of a rule must hold, and any rule does.
func TestRules(t *testing.T) {
	const answer = "HTTP/1.1 500 Oops\r\nX-Error: over quota\r\nX-Other: a\r\n\r\n<p>Out of traffic</p>"
	for _, c := range []struct {
		rule upstream.OwnError
		want bool
	}{
		{upstream.OwnError{Status: 500}, true},
		{upstream.OwnError{Status: 502}, false},
		{upstream.OwnError{Header: "x-error"}, true},
		{upstream.OwnError{Header: "X-Error: quota"}, true},
		{upstream.OwnError{Header: "X-Error:quota"}, true},
		{upstream.OwnError{Header: "X-Error: Quota"}, false},
		{upstream.OwnError{Header: "X-Other: quota"}, false},
		{upstream.OwnError{Header: "X-None"}, false},
		{upstream.OwnError{Body: "Out of traffic"}, true},
		{upstream.OwnError{Body: "out of traffic"}, false},
		{upstream.OwnError{Status: 500, Header: "X-Error: quota", Body: "traffic"}, true},
		{upstream.OwnError{Status: 501, Header: "X-Error: quota", Body: "traffic"}, false},
		{upstream.OwnError{Status: 500, Header: "X-Error: none", Body: "traffic"}, false},
		{upstream.OwnError{Status: 500, Header: "X-Error: quota", Body: "none"}, false},
	} {
		own := findErrorPage(pageOf(t, answer, false), []upstream.OwnError{{Status: 599}, c.rule}, 0)
		require.Equal(t, c.want, own != nil, "%+v", c.rule)
		if own != nil {
			require.Equal(t, ErrorPage{Signature: "own_error", Kind: verdict.ErrorPageUnclear}, *own)
		}
	}
}
