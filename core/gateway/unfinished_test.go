package gateway

import (
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// dialUnfinished opens a connection and sends the beginning of a head. Unlike rig.dial, it allocates little.
func dialUnfinished(t *testing.T, r *rig) net.Conn {
	c, err := net.Dial("tcp", r.listener.Addr().String())
	require.NoError(t, err)
	_, err = io.WriteString(c, "GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nX-A: ")
	require.NoError(t, err)
	return c
}

// A client with an unfinished head takes little more memory than the buffer of its head (4 KiB). Thousands of such
// clients would otherwise make garbage collections long, and these delay the requests of all other clients.
func TestUnfinishedHeadsTakeLittleMemory(t *testing.T) {
	const n = 400
	r := newRig(t, nil, nil)
	before := liveBytes()
	for range n {
		defer dialUnfinished(t, r).Close()
	}
	r.eventually("all heads have begun", func() bool {
		begun := 0
		r.eachConn(func(c *connection) {
			if c.readControl.currentWait().kind == headWait {
				begun++
			}
		})
		return begun == n
	})
	require.Less(t, (liveBytes()-before)/n, 9<<10) // 6.5 KiB, that of the test's own connection included
}

// A late head costs little memory, too. A flood of them would otherwise make garbage collections frequent.
func TestLateHeadsMakeLittleGarbage(t *testing.T) {
	const n = 400
	r := newRig(t, nil, func(o *options) { o.Head = time.Millisecond })
	response := make([]byte, 1<<10)
	late := func() {
		c := dialUnfinished(t, r)
		defer c.Close()
		n, err := c.Read(response)
		require.NoError(t, err)
		require.Contains(t, string(response[:n]), "408")
	}
	late()
	before := allocatedBytes()
	for range n {
		late()
	}
	require.Less(t, (allocatedBytes()-before)/n, uint64(11<<10)) // 3.1 KiB; 8.2 KiB with -race, which empties pools
}

// liveBytes returns the bytes of all objects in the heap.
func liveBytes() int {
	runtime.GC()
	runtime.GC() // the first one does not free the buffers in a sync.Pool
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// allocatedBytes returns the bytes of all objects that were ever allocated.
func allocatedBytes() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}
