package api

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/proxylist"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

const plainText = "Content-Type: text/plain"

// readList sends a list and returns the result of reading it.
func (r *rig) readList(t *testing.T, query, list string) (v readingView) {
	t.Helper()
	response, body := r.send(t, "POST", "/api/v1/proxy-lists"+query, list, plainText)
	require.Equal(t, 200, response.StatusCode, "%s", body)
	require.NoError(t, json.Unmarshal(body, &v))
	return v
}

// A list is read as serve --proxies reads it. The response reports what is left out, without credentials.
func TestListsAreReadAndAdded(t *testing.T) {
	r := newRig(t, nil)
	const list = "http://bob:hunter2@192.0.2.1:80#id=a&tags=x,y\n192.0.2.2:81:ann:passw0rd\n# comment\nnonsense\n" +
		"http://f2.test:8080\nhttp://192.0.2.3:80#id=F1\nhttp://***@192.0.2.4:80\nhttps://192.0.2.5:80#insecure=true\n"
	v := r.readList(t, "?dry_run=true", list)
	require.Equal(t, 2, v.Proxies)
	require.Equal(t, []string{"http://***@192.0.2.1:80#id=a&tags=x%2Cy", "http://***@192.0.2.2:81"}, v.Examples)
	require.Equal(t, map[string]int{"URL": 4, "host:port:user:pass": 1}, v.Forms)
	require.Len(t, v.LeftOut, 5)
	require.Equal(t, 1, v.LeftOut["the pool has the proxy already"])
	require.Equal(t, 1, v.LeftOut["the id is already used by another proxy"])
	require.Contains(t, v.Warnings, listWarning{"the id \"F1\" is already used by another proxy", []int{6}, 1})
	require.Empty(t, v.IDs)
	require.Len(t, r.pool.Snapshot().All, 2, "nothing is added")
	require.NotContains(t, r.log.String(), "changed through the API")

	v = r.readList(t, "", list)
	require.Equal(t, []string{"a", "192.0.2.2:81"}, v.IDs)
	spec := r.pool.Snapshot().Get("a").Spec()
	require.Equal(t, []string{"x", "y"}, spec.Tags)
	require.Equal(t, upstream.Secret("hunter2"), spec.Address.Password)
	require.Equal(t, upstream.SourceAPI, spec.Source)
	require.Contains(t, r.log.String(), "changed through the API")
	require.Zero(t, r.readList(t, "", list).Proxies, "the pool has all of them")

	v = r.readList(t, "?id="+url.QueryEscape("{user}@{host}"),
		"http://eve:secret@192.0.2.7:1\nhttp://eve:x@192.0.2.7:2\n")
	require.Equal(t, []string{"eve@192.0.2.7", "eve@192.0.2.7-2"}, v.IDs)
	v = r.readList(t, "?id="+url.QueryEscape("ws-{host}"), `[{"ip":"192.0.2.8","port":1,"id":"vendors"}]`)
	require.Equal(t, []string{"ws-192.0.2.8"}, v.IDs)
	for _, query := range []string{"?id=", "?id={password}", "?id=x", "?id={host}&id={host}"} {
		response, body := r.send(t, "POST", "/api/v1/proxy-lists"+query, list, plainText)
		require.Equal(t, 400, response.StatusCode, query)
		require.Contains(t, string(body), `"field":"id"`)
	}

	require.Equal(t, "socks5://192.0.2.9:1", r.readList(t, "?scheme=socks5", "192.0.2.9:1").Examples[0])
	require.Zero(t, r.readList(t, "", " \n").Proxies)
}

// The warnings of a long list are grouped by reason. Each group has its first lines and the number of all.
func TestWarningsOfALongListAreGrouped(t *testing.T) {
	r := newRig(t, nil)
	list := "192.0.2.1:80\n" + strings.Repeat("nonsense\n192.0.2.1:80\nhttp://f2.test:8080\n", 2000)
	v := r.readList(t, "?dry_run=true", list)
	require.Equal(t, 1, v.Proxies)
	require.Contains(t, v.Warnings, listWarning{
		"the same proxy as on another line; the first one: the same proxy as on line 1", []int{3, 6, 7, 9, 10}, 3999,
	})
	require.Len(t, v.Warnings, 3)

	v = r.readList(t, "?dry_run=true", "192.0.2.1:80\nhttp://***@192.0.2.2:80\nhttp://***@192.0.2.3:80\n")
	require.Equal(t, []listWarning{{"*** stands for hidden credentials; write them out", []int{2, 3}, 2}}, v.Warnings)

	clash := "proxies:\n- {name: a, type: http, server: f2.test, port: 8080}\n"
	v = r.readList(t, "?dry_run=true", clash)
	require.Equal(t, map[string]int{"the pool has the proxy already": 1}, v.LeftOut)
}

// An exported list, and an exported table, have all settings of a proxy, and no secrets. Reading them gives the same
// proxies.
func TestExportedListsCanBeRead(t *testing.T) {
	const line = "socks5://192.0.2.1:80#auth=digest&bytes_per_day=1000000&city=a+b%26c&cost=0.5&cost_per_gb=2&" +
		"cost_per_request=0.1&id=%3Done&max_in_flight=7&min_interval=500ms&rate=2&region=EU&reuse=false&tags=x%2Cy&" +
		"tier=3&vendor=acme&weight=2.5"
	spec, err := proxylist.ParseLine(strings.Replace(line, "socks5", "http", 1))
	require.NoError(t, err)
	for _, format := range []string{"list", "csv"} {
		r := newRig(t, nil)
		v := r.readList(t, "", strings.Replace(line, "socks5", "http", 1))
		require.Equal(t, []string{"=one"}, v.IDs)
		response, exported := r.send(t, "GET", "/api/v1/proxy-lists?format="+format, "")
		require.Equal(t, 200, response.StatusCode)
		require.NotContains(t, string(exported), "secret")
		require.NotContains(t, string(exported), "user:")
		require.NotContains(t, string(exported), "\n=one", "no formula")

		fresh := newRig(t, nil)
		require.NoError(t, fresh.pool.Remove("F1", false))
		require.NoError(t, fresh.pool.Remove("F2", false))
		v = fresh.readList(t, "", string(exported))
		require.ElementsMatch(t, []string{"=one", "F2"}, v.IDs, "%s: F1 has credentials: %+v", format, v)
		got := *fresh.pool.Snapshot().Get("=one").Spec()
		want := *r.pool.Snapshot().Get("=one").Spec()
		require.Equal(t, want, got)
		require.Equal(t, spec.Extra().Metadata, got.Extra().Metadata)
	}
}
