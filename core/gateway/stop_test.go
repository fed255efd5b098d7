package gateway

import (
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// After stop, no wait for the client's body continues, whatever the order of stop and the wait.
func TestAStoppedBodyStaysStopped(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String()) // the client sends nothing
	require.NoError(t, err)
	defer client.Close()
	raw, err := l.Accept()
	require.NoError(t, err)
	defer raw.Close()
	ended := func(d *readControl) {
		t.Helper()
		read := make(chan error, 1)
		go func() {
			_, err := d.conn.Read(make([]byte, 1))
			read <- err
		}()
		select {
		case err := <-read:
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		case <-time.After(time.Minute):
			t.Fatal("it waits for the client")
		}
	}
	var draining atomic.Bool
	await := func(d *readControl) { d.setDeadline(time.Now().Add(time.Hour)) }
	d := &readControl{conn: raw, draining: &draining}
	d.stopBodyReads()
	await(d)
	ended(d)
	for range 1000 {
		d = &readControl{conn: raw, draining: &draining}
		var wg sync.WaitGroup
		wg.Go(func() { await(d) })
		wg.Go(d.stopBodyReads)
		wg.Wait()
		ended(d)
	}
}
