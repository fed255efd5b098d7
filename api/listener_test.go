package api

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/budget"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
)

// failingListener fails twice and then accepts.
type failingListener struct {
	net.Listener
	failures int
}

func (l *failingListener) Accept() (net.Conn, error) {
	if l.failures > 0 {
		l.failures--
		return nil, errors.New("too many open files")
	}
	return l.Listener.Accept()
}

// serveOn serves HTTP on a listener with the given limit. Each request waits for the channel hold.
func serveOn(t *testing.T, limit int, hold chan struct{}) (dial func() net.Conn, l *listener) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l = newListener(&failingListener{tcp, 2}, (*budget.Files)(nil), limit, slog.New(slog.DiscardHandler), time.Now,
		usualLimits)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				r := bufio.NewReader(c)
				for {
					if _, err := http.ReadRequest(r); err != nil {
						return
					}
					c.(*conn).beginUse()
					<-hold
					c.(*conn).endUse()
					io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				}
			})
		}
	})
	var clients []net.Conn
	t.Cleanup(func() {
		tcp.Close()
		for _, c := range clients {
			c.Close()
		}
		wg.Wait()
	})
	return func() net.Conn {
		c, err := net.Dial("tcp", tcp.Addr().String())
		require.NoError(t, err)
		c.SetDeadline(time.Now().Add(time.Minute))
		clients = append(clients, c)
		return c
	}, l
}

func getOn(t *testing.T, c net.Conn) (status int) {
	_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	require.NoError(t, err)
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	require.NoError(t, err)
	return r.StatusCode
}

// At the limit, the connection that has waited longest for a request is closed, and the new client is served.
func TestSilentConnectionsMakeRoom(t *testing.T) {
	free := make(chan struct{})
	close(free)
	dial, l := serveOn(t, 4, free)
	for range 20 {
		dial() // sends nothing
	}
	old := dial()
	require.Equal(t, 200, getOn(t, old))
	for range 3 {
		require.Equal(t, 200, getOn(t, dial()))
	}
	require.Equal(t, 200, getOn(t, old), "it has been used more recently than the silent ones")
	l.mu.Lock()
	defer l.mu.Unlock()
	require.Len(t, l.conns, 4)
}

// A connection whose request has arrived, but has not been read, is not closed in favour of another one. A client
// whose connection is closed before it has sent anything gets a 503.
func TestAnUnreadRequestMakesNoRoom(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer tcp.Close()
	l := newListener(tcp, (*budget.Files)(nil), 1, slog.New(slog.DiscardHandler), time.Now, usualLimits)
	connect := func(sends string) (client, accepted net.Conn) {
		client, err := net.Dial("tcp", tcp.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { client.Close() })
		client.SetDeadline(time.Now().Add(time.Minute))
		_, err = io.WriteString(client, sends)
		require.NoError(t, err)
		accepted, err = tcp.Accept()
		require.NoError(t, err)
		t.Cleanup(func() { accepted.Close() })
		return client, accepted
	}
	refused := func(c net.Conn) {
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err)
		require.Equal(t, 503, r.StatusCode)
	}
	silent, raw := connect("")
	require.NotNil(t, l.admitConn(raw))
	_, raw = connect("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	for socket.Unread(socket.Wrap(raw)) == 0 {
		time.Sleep(time.Millisecond)
	}
	first := l.admitConn(raw)
	require.NotNil(t, first)
	refused(silent)
	next, raw := connect("")
	require.Nil(t, l.admitConn(raw), "the request has not been read")
	refused(next)
	r := bufio.NewReader(first)
	_, err = http.ReadRequest(r)
	require.NoError(t, err)
	_, raw = connect("")
	require.Nil(t, l.admitConn(raw), "the request is in progress")
	reads := make(chan error, 1)
	go func() {
		_, err := http.ReadRequest(r)
		reads <- err
	}()
	for !first.(*conn).isWaiting() {
		time.Sleep(time.Millisecond)
	}
	_, raw = connect("")
	require.NotNil(t, l.admitConn(raw), "the next request is waited for")
	require.Error(t, <-reads)
}

// If every connection has a request in progress, a new client gets a 503 at once.
func TestBusyConnectionsStay(t *testing.T) {
	hold := make(chan struct{})
	dial, l := serveOn(t, 2, hold)
	var wg sync.WaitGroup
	for range 2 {
		c := dial()
		wg.Go(func() { require.Equal(t, 200, getOn(t, c)) })
	}
	busy := func() (n int) {
		l.mu.Lock()
		defer l.mu.Unlock()
		for c := range l.conns {
			if c.uses > 0 {
				n++
			}
		}
		return n
	}
	for busy() < 2 {
		time.Sleep(time.Millisecond)
	}
	r, err := http.ReadResponse(bufio.NewReader(dial()), nil)
	require.NoError(t, err)
	require.Equal(t, 503, r.StatusCode)
	body, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	require.JSONEq(t, `{"error":"too_many_connections",
		"message":"the API is handling as many requests as it can"}`, string(body))
	close(hold)
	wg.Wait()
}

// One address leaves the last eighth of the connections to others. If no descriptor is left, the API still
// has a few connections.
func TestTheAPICanBeReached(t *testing.T) {
	files := budget.NewFiles(40, time.Now)
	require.True(t, files.Acquire(budget.ForClients, files.Limit()))
	l := newListener(nil, files, 16, slog.New(slog.DiscardHandler), time.Now, usualLimits)
	admit := func(address string) bool {
		c, _ := net.Pipe()
		admitted := l.admitConn(&addressed{c, address})
		if admitted == nil {
			return false
		}
		admitted.(*conn).beginUse()
		return true
	}
	for range reservedConnections {
		require.True(t, admit("10.0.0.1"))
	}
	require.False(t, admit("10.0.0.1"), "no descriptor is left")
	files.Release(budget.ForClients, files.Limit())
	for range 14 - reservedConnections {
		require.True(t, admit("10.0.0.1"))
	}
	require.False(t, admit("10.0.0.1"))
	require.True(t, admit("10.0.0.2"))
	require.True(t, admit("10.0.0.2"))
	require.False(t, admit("10.0.0.3"), "the limit")
	require.Equal(t, 16, files.Used())
	for c := range l.conns {
		c.Close()
	}
	require.Zero(t, files.Used())
}

// addressed is a connection from an address. Nobody reads what is written to it.
type addressed struct {
	net.Conn
	address string
}

func (a *addressed) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.ParseIP(a.address), Port: 1} }

func (a *addressed) Write(p []byte) (int, error) { return len(p), nil }

// If a client reads nothing of a response for the idle time, the server stops sending the response.
func TestAResponseThatNobodyReadsEnds(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l := newListener(tcp, (*budget.Files)(nil), 10, slog.New(slog.DiscardHandler), time.Now, func() Limits {
		return Limits{BodyIdle: 80 * time.Millisecond}
	})
	defer l.Close()
	client, err := net.Dial("tcp", tcp.Addr().String())
	require.NoError(t, err)
	defer client.Close()
	accepted, err := l.Accept()
	require.NoError(t, err)
	defer accepted.Close()
	_, err = accepted.Write(make([]byte, 64<<20)) // more than the buffers of the system hold
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

// At a shutdown, the server closes connections while it reads from them. A connection of a socket that the service
// manager passed permits only one read at a time.
func TestACloseDuringARead(t *testing.T) {
	on, err := socket.Listen(t.Context(), "127.0.0.1:0")
	require.NoError(t, err)
	l := newListener(on, (*budget.Files)(nil), 10, slog.New(slog.DiscardHandler), time.Now, usualLimits)
	defer l.Close()
	client, err := net.Dial("tcp", on.Addr().String())
	require.NoError(t, err)
	accepted, err := l.Accept()
	require.NoError(t, err)
	read := make(chan error)
	go func() {
		_, err := accepted.Read(make([]byte, 1))
		read <- err
	}()
	for c := accepted.(*conn); c.readMu.TryLock(); time.Sleep(time.Millisecond) { // until the read has begun
		c.readMu.Unlock()
	}
	require.NoError(t, accepted.Close())
	client.Close()
	require.Error(t, <-read)
}
