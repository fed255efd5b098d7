package transport

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// uploadRequest returns a request whose body of n bytes is read from a connection, and the peer of that
// connection.
func uploadRequest(t *testing.T, n int) (*Request, net.Conn) {
	near, far := coretest.Pair(t)
	q := getRequest()
	q.Source, q.Pipes = socket.Wrap(near).(*socket.Conn), socket.NewPipes(nil, nil)
	q.Framing, q.Length, q.Remainder = http1.Length, int64(n), &http1.Body{}
	q.Remainder.Start(http1.NewReader(q.Source), http1.Length, int64(n))
	q.BeforeRead, q.StopRead = func() {}, func() { q.Source.SetReadDeadline(aLongTimeAgo) }
	return q, far
}

func TestUpload(t *testing.T) {
	body := make([]byte, 8<<20+1)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range body {
		body[i] = byte(random.Uint32())
	}
	arrived := make(chan []byte, 1)
	readAfter := func(pause time.Duration) string {
		return "http://" + coretest.Serve(t, func(c net.Conn) {
			r, err := http.ReadRequest(bufio.NewReader(c))
			if err != nil {
				return
			}
			time.Sleep(pause)
			got, _ := io.ReadAll(r.Body)
			arrived <- got
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		})
	}
	t.Run("complete", func(t *testing.T) {
		u := proxyAt(t, readAfter(0))
		tr := New(Config{})
		defer tr.Close()
		q, client := uploadRequest(t, len(body))
		go client.Write(body)
		c := &Control{Deadline: time.Now().Add(time.Minute), BodyIdle: 10 * time.Second}
		var resp Response
		require.Nil(t, tr.RoundTrip(t.Context(), u, c, q, &resp))
		assert.True(t, bytes.Equal(body, <-arrived))
		assert.True(t, q.Remainder.Done())
		_, err := io.ReadAll(&resp.Body)
		require.NoError(t, err)
		resp.Finish(c, time.Now())
	})
	t.Run("the proxy stops reading", func(t *testing.T) {
		u := proxyAt(t, readAfter(time.Hour))
		tr := New(Config{})
		defer tr.Close()
		q, client := uploadRequest(t, 64<<20)
		go client.Write(make([]byte, 64<<20))
		begin := time.Now()
		verr := tr.RoundTrip(t.Context(), u, &Control{Deadline: time.Now().Add(time.Minute),
			BodyIdle: 200 * time.Millisecond}, q, &Response{})
		require.NotNil(t, verr)
		assert.GreaterOrEqual(t, time.Since(begin), 200*time.Millisecond)
		assert.NotEqual(t, verdict.RequestBroke, verr.Cause, "the client is not the reason")
	})
	t.Run("the client closes", func(t *testing.T) {
		u := proxyAt(t, readAfter(0))
		tr := New(Config{})
		defer tr.Close()
		q, client := uploadRequest(t, len(body))
		go func() {
			client.Write(body[:4<<20])
			client.Close()
		}()
		verr := tr.RoundTrip(t.Context(), u, &Control{Deadline: time.Now().Add(time.Minute),
			BodyIdle: 10 * time.Second}, q, &Response{})
		require.NotNil(t, verr)
		assert.Equal(t, verdict.RequestBroke, verr.Cause)
		assert.ErrorIs(t, q.Remainder.Err(), http1.ErrTruncated)
		<-arrived
	})
	t.Run("the proxy resets", func(t *testing.T) {
		u := proxyAt(t, "http://"+coretest.Serve(t, func(c net.Conn) {
			io.ReadFull(c, make([]byte, 1<<20))
			c.(*net.TCPConn).SetLinger(0)
		}))
		tr := New(Config{})
		defer tr.Close()
		q, client := uploadRequest(t, 64<<20)
		go client.Write(make([]byte, 64<<20))
		verr := tr.RoundTrip(t.Context(), u, &Control{Deadline: time.Now().Add(time.Minute),
			BodyIdle: 10 * time.Second}, q, &Response{})
		require.NotNil(t, verr)
		assert.NotEqual(t, verdict.RequestBroke, verr.Cause)
		assert.Equal(t, "connection_terminated", verr.Reason)
	})
}

// If the response begins before the request's body has been sent, the end of the request does not change the deadline
// of the response's body.
func TestEarlyResponse(t *testing.T) {
	for name, end := range map[string]func(client net.Conn, left int){
		"complete":                func(client net.Conn, left int) { client.Write(make([]byte, left)) },
		"the proxy stops reading": func(client net.Conn, left int) { go client.Write(make([]byte, left)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const size = 32 << 20
			finish := make(chan struct{})
			u := proxyAt(t, "http://"+coretest.Serve(t, func(c net.Conn) {
				r, err := http.ReadRequest(bufio.NewReader(c))
				if err != nil {
					return
				}
				fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
				if name == "the proxy stops reading" {
					c.(*net.TCPConn).CloseRead()
				} else {
					io.Copy(io.Discard, r.Body)
				}
				<-finish
				fmt.Fprint(c, "there")
			}))
			tr := New(Config{})
			defer tr.Close()
			var q *Request
			var client net.Conn
			var resp Response
			c := &Control{BodyIdle: plenty}
			headTimeout, verr := time.Duration(0), (*verdict.Error)(nil)
			growing(100*time.Millisecond, func(limit time.Duration) bool {
				q, client = uploadRequest(t, size)
				headTimeout, c.Deadline = limit, time.Now().Add(limit)
				verr = tr.RoundTrip(t.Context(), u, c, q, &resp)
				return verr == nil
			})
			require.Nil(t, verr)
			resp.SetReadDeadline(c, time.Now().Add(3*headTimeout+plenty))
			end(client, size)
			time.AfterFunc(3*headTimeout, func() { close(finish) })
			got, err := io.ReadAll(&resp.Body)
			require.NoError(t, err)
			assert.Equal(t, "hellothere", string(got))
			resp.Finish(c, time.Now())
		})
	}
}

// A connection on which a request's body was not sent completely is not reused, because the peer would treat the
// next request as the rest of the body.
func TestIncompleteBodyIsNotReused(t *testing.T) {
	const size = 8 << 20
	u := proxyAt(t, "http://"+coretest.Serve(t, func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
			io.Copy(io.Discard, c)
		}
	}))
	tr := New(Config{})
	defer tr.Close()
	q, client := uploadRequest(t, size)
	c := &Control{Deadline: time.Now().Add(time.Minute), BodyIdle: 10 * time.Second}
	var resp Response
	require.Nil(t, tr.RoundTrip(t.Context(), u, c, q, &resp))
	got, err := io.ReadAll(&resp.Body)
	require.NoError(t, err)
	assert.Equal(t, "hello", string(got))
	client.Write(make([]byte, size/2))
	client.(*net.TCPConn).CloseWrite()
	require.Eventually(t, func() bool { return len(resp.uploadDone) == 1 }, time.Minute, time.Millisecond)
	assert.True(t, resp.RequestBodyBroken(q))
	assert.False(t, resp.Finish(c, time.Now()))
	assert.Zero(t, tr.pool(u).count)
}
