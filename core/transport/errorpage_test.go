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

// recorded is a response of a real proxy: a section of testdata/ownerrors. A section begins with a line such as
// "== get_dns => privoxy target_unreachable dns_error". "=> -" means that the response is not recognised as the
// proxy's own.
type recorded struct{ name, want, response string }

func readRecorded(t *testing.T, file string) (all []recorded) {
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	for _, section := range strings.Split("\n"+string(data), "\n== ")[1:] {
		title, response, _ := strings.Cut(section, "\n")
		name, want, _ := strings.Cut(title, " => ")
		if strings.Contains(title, ": ") {
			continue // there was no response
		}
		head, body, _ := strings.Cut(response+"\n", "\n\n")
		all = append(all, recorded{name, want, strings.ReplaceAll(head, "\n", "\r\n") + "\r\n\r\n" + body})
	}
	require.NotEmpty(t, all, file)
	return all
}

// pageOf parses a response to a GET or a CONNECT.
func pageOf(t *testing.T, response string, connect bool) *page {
	var r http1.Response
	reader := http1.NewReader(strings.NewReader(response))
	require.NoError(t, reader.ReadResponse(&r, []byte("GET")), response)
	return &page{status: r.Status, reason: r.Reason, fields: r.Fields, body: reader.Buffered(), connect: connect}
}

func (o *ErrorPage) short() string {
	if o == nil {
		return "-"
	}
	return strings.TrimSpace(o.Signature + " " + o.Kind.String() + " " + o.Reason)
}

// TestRecordedResponses: the error pages of real proxies are recognised, and the responses that they relayed are not.
func TestRecordedResponses(t *testing.T) {
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

// TestSquidVia: squid adds Via to its own pages, and to the pages of a target that is also a squid. Only the pages of
// the proxy are recognised.
func TestSquidVia(t *testing.T) {
	page := func(via string) *page {
		return pageOf(t, "HTTP/1.1 503 x\r\nServer: squid/5.7\r\nContent-Type: text/html;charset=utf-8\r\n"+
			"X-Squid-Error: ERR_DNS_FAIL 0\r\n"+via+"\r\n", false)
	}
	const one = "Via: 1.1 a (squid/5.7)\r\n"
	require.Equal(t, &ErrorPage{Signature: "x-squid-error", Kind: verdict.ErrorPageUnreachable, Reason: "dns_error",
		Detail: "ERR_DNS_FAIL"}, findErrorPage(page(one), nil, 0))
	require.NotNil(t, findErrorPage(page(""), nil, 0))
	require.Nil(t, findErrorPage(page(one), nil, viaMissing), "the proxy adds no Via, so the page is the target's")
	require.NotNil(t, findErrorPage(page(""), nil, viaMissing))
	require.Nil(t, findErrorPage(page(one+"Via: 1.1 b (squid/5.7)\r\n"), nil, 0))
	require.Nil(t, findErrorPage(page("Via: 1.1 a (squid/5.7), 1.1 b (squid/5.7)\r\n"), nil, 0))
	require.Nil(t, findErrorPage(page("Via: 1.1 vm (tinyproxy/1.11.1)\r\n"), nil, 0))
	require.Nil(t, findErrorPage(pageOf(t, "HTTP/1.1 503 x\r\nServer: ATS\r\nContent-Type: text/html\r\n"+
		"X-Squid-Error: ERR_DNS_FAIL 0\r\n\r\n", false), nil, 0))
}

// TestSquidPage: only the name of the page is logged.
func TestSquidPage(t *testing.T) {
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
		{[]string{"a; error=dns_error,"}, false, "", false},        // the whole field is malformed
		{[]string{"a; error=dns error"}, false, "", false},         //
		{[]string{""}, false, "", false},                           //
		{[]string{"whirlpool; error=connection_refused"}, true, "connection_refused", true},
		{[]string{"cdn; error=connection_refused"}, true, "", false}, // relayed by a Whirlpool
	} {
		reason, ok := proxyStatusError(c.values, c.whirlpool)
		require.Equal(t, c.reason, reason, c.values)
		require.Equal(t, c.ok, ok, c.values)
	}
}

// FuzzErrorPage: no response causes a panic, and every result has a known kind.
func FuzzErrorPage(f *testing.F) {
	files, err := filepath.Glob("testdata/ownerrors/*.txt")
	require.NoError(f, err)
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(f, err)
		for _, section := range strings.Split(string(data), "\n== ")[1:] {
			_, response, _ := strings.Cut(section, "\n")
			f.Add(strings.ReplaceAll(response, "\n", "\r\n"), false)
		}
	}
	f.Add("HTTP/1.1 502 x\r\nProxy-Status: a; error=dns_error\r\n\r\n", true)
	f.Fuzz(func(t *testing.T, response string, connect bool) {
		var r http1.Response
		reader := http1.NewReader(strings.NewReader(response))
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

// TestRules: a page matches if it matches all parts of one rule.
func TestRules(t *testing.T) {
	const response = "HTTP/1.1 500 Oops\r\nX-Error: over quota\r\nX-Other: a\r\n\r\n<p>Out of traffic</p>"
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
		own := findErrorPage(pageOf(t, response, false), []upstream.OwnError{{Status: 599}, c.rule}, 0)
		require.Equal(t, c.want, own != nil, "%+v", c.rule)
		if own != nil {
			require.Equal(t, ErrorPage{Signature: "own_error", Kind: verdict.ErrorPageUnclear}, *own)
		}
	}
}
