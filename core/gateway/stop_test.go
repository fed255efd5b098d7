package gateway

import (
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The sending of a request's body that has been stopped does not wait for the
// client again, in whatever order stop and the next wait come.
func TestAStoppedBodyStaysStopped(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String()) // it sends nothing
	require.NoError(t, err)
	defer client.Close()
	raw, err := l.Accept()
	require.NoError(t, err)
	defer raw.Close()
	server := New(Config{Now: time.Now}, Settings{BodyIdle: time.Hour})
	ended := func(c *conn) {
		t.Helper()
		read := make(chan error, 1)
		go func() {
			_, err := c.raw.Read(make([]byte, 1))
			read <- err
		}()
		select {
		case err := <-read:
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		case <-time.After(10 * time.Second):
			t.Fatal("it waits for the client")
		}
	}
	c := newConn(server, raw)
	c.stopBodyFunc()
	c.armBodyFunc()
	ended(c)
	for range 1000 {
		c = newConn(server, raw)
		var wg sync.WaitGroup
		wg.Go(c.armBodyFunc)
		wg.Go(c.stopBodyFunc)
		wg.Wait()
		ended(c)
	}
}
