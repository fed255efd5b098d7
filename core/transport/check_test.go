package transport

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/ability"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/health"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// A check uses a new connection for each form, and closes it.
func TestCheckForms(t *testing.T) {
	var w ways
	closed := make(chan struct{}, 8)
	tr := New(Config{})
	t.Cleanup(tr.Close)
	u := proxyAt(t, "http://user:hunter2@"+coretest.Serve(t, func(c net.Conn) { w.serve(c); closed <- struct{}{} }))
	q, err := health.ParseURL("http://check.test/a?b")
	require.NoError(t, err)
	check := func(form health.SendForm) health.Response {
		r := tr.Check(t.Context(), u, form, &q, plenty)
		<-closed
		require.Positive(t, r.Duration)
		return r
	}
	w.set(201, 200, 202)
	r := check(health.Absolute)
	require.Equal(t, 201, r.Facts.Status)
	require.Equal(t, "201", string(r.Body))
	require.Equal(t, "3", r.Header.Get("Content-Length"))
	require.Equal(t, "GET http://check.test/a?b", w.requests())
	require.Equal(t, 202, check(health.Tunnel).Facts.Status)
	require.Equal(t, "CONNECT check.test:80, GET /a?b", w.requests())
	require.Equal(t, ability.Unknown, u.Ability(ability.TunnelOther).State, "package health records it")
	w.set(201, 403, 202)
	r = check(health.Tunnel)
	require.Equal(t, verdict.TunnelRefused, r.Facts.Err.Cause)
	require.NotContains(t, r.Facts.Err.Error(), "hunter2")
	w.set(0, 0, 0)
	growing(50*time.Millisecond, func(limit time.Duration) bool {
		r = tr.Check(t.Context(), u, health.Absolute, &q, limit)
		return r.Facts.Err == nil || r.Facts.Err.Cause != verdict.ProxyConnectTimeout
	})
	require.Equal(t, verdict.NoAnswerInTime, r.Facts.Err.Cause)
}

func TestCheckEnds(t *testing.T) {
	tr := New(Config{})
	t.Cleanup(tr.Close)
	q, err := health.ParseURL("http://check.test/")
	require.NoError(t, err)
	asked := make(chan struct{}, 1)
	u := proxyAt(t, "http://"+coretest.Serve(t, func(c net.Conn) {
		readRequest(c)
		asked <- struct{}{}
		io.Copy(io.Discard, c)
	}))
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	// The time limit is longer than a test may take, so only the cancelled context can end the check.
	require.NotNil(t, tr.Check(ctx, u, health.Absolute, &q, time.Hour).Facts.Err)

	u = proxyAt(t, "http://"+respondWith(t, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"))
	var r health.Response
	growing(100*time.Millisecond, func(limit time.Duration) bool {
		r = tr.Check(t.Context(), u, health.Absolute, &q, limit)
		return len(r.Body) > 0
	})
	require.NotNil(t, r.Facts.Err)
	require.Equal(t, "half", string(r.Body))
}

// Through direct:// the check is sent to the target itself.
func TestCheckDirectly(t *testing.T) {
	tr := New(Config{})
	t.Cleanup(tr.Close)
	target := coretest.Serve(t, func(c net.Conn) {
		readRequest(c)
		fmt.Fprint(c, "HTTP/1.1 204 x\r\n\r\n")
	})
	q, err := health.ParseURL("http://" + target + "/")
	require.NoError(t, err)
	u := proxyAt(t, "direct://")
	require.Equal(t, upstream.Direct, u.Spec().Address.Scheme)
	require.Equal(t, 204, tr.Check(t.Context(), u, health.Tunnel, &q, plenty).Facts.Status)
}
