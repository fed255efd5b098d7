package integration

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

// soakTime returns the length of the soak: WHIRLPOOL_SOAK, or 60 s, or 5 s with -short.
func soakTime(t *testing.T) time.Duration {
	t.Helper()
	if set := os.Getenv("WHIRLPOOL_SOAK"); set != "" {
		d, err := time.ParseDuration(set)
		require.NoError(t, err)
		return d
	}
	if testing.Short() {
		return 5 * time.Second
	}
	return time.Minute
}

// resources returns the resident memory in bytes, the number of goroutines and the number of open files of the
// gateway.
func (w *whirl) resources() (out [3]float64) {
	w.t.Helper()
	text := w.scrape()
	for i, name := range []string{"process_resident_memory_bytes", "go_goroutines", "process_open_fds"} {
		m := regexp.MustCompile("(?m)^" + name + " (.*)$").FindStringSubmatch(text)
		require.NotNil(w.t, m, name)
		out[i], _ = strconv.ParseFloat(m[1], 64)
	}
	return out
}

// All faults at once: proxies that fail in every way, clients that leave, stop, send nonsense or half a head, and
// changes of the pool, the policy and the file. At the end the books are exact, and memory, goroutines and descriptors
// are back.
func TestS122Soak(t *testing.T) {
	t.Parallel()
	w := start(t, 6, confK)
	faults := []lab.Behaviour{
		{}, {}, {}, {}, {Status: 503}, {Status: 502}, {Fin: true}, {Reset: true}, {Cut: 100},
		{Garbage: "nonsense\r\n\r\n"},
		{Delay: 20 * time.Millisecond}, {Size: 200_000}, {Status: 404},
	}
	for i, f := range w.fakes {
		chance := rand.New(rand.NewPCG(1, uint64(i)))
		f.Set(func(int, *http.Request) lab.Behaviour { return faults[chance.IntN(len(faults))] })
	}
	for range 200 {
		w.get()
	}
	w.client.CloseIdleConnections()
	before := w.resources()

	var requests, hostile atomic.Int64
	clients := coretest.Repeat(8, func(i int) {
		requests.Add(1)
		switch i {
		case 0:
			w.do("POST", strings.Repeat("x", 1000))
		case 1:
			if _, _, c := w.connect("127.0.0.1:9"); c != nil { // the fakes find nobody there
				c.Close()
			}
		default:
			w.request("GET", fmt.Sprintf("http://t%d.test/", requests.Load()%5), "")
		}
		time.Sleep(soakTime(t) / 20_000) // the fakes keep every request
	})
	strangers := coretest.Repeat(3, func(i int) {
		hostile.Add(1)
		c, err := net.Dial("tcp", w.gateway)
		if err != nil {
			return
		}
		defer c.Close()
		switch i {
		case 0:
			c.Write([]byte("GET http://a.test/ HTTP/1.1\r\nHost: a.te")) // half a head
		case 1:
			c.Write([]byte("\x00\x01nonsense\n\n"))
		case 2:
			c.Write([]byte("\x05\x01\x00")) // half a SOCKS5 greeting
		}
		time.Sleep(5 * time.Millisecond)
	})
	changes := coretest.Repeat(1, func(int) {
		w.put(fmt.Sprintf(`{"max_attempts":%d}`, 2+requests.Load()%3))
		w.call("POST", "/circuit-breakers/F1/reset", "")
		w.write(confK + fmt.Sprintf("[timeouts]\nbody_idle = \"%ds\"\n", 50+requests.Load()%9))
		w.call("POST", "/config/reload", "")
		time.Sleep(50 * time.Millisecond)
	})
	time.Sleep(soakTime(t))
	clients()
	strangers()
	changes()
	w.client.CloseIdleConnections()
	eventually(t, "nothing is in flight", func() bool {
		return strings.Contains(w.scrape(), "requests_in_flight 0")
	})
	w.reconcile(0)
	// Idle connections to proxies stay for 90 s, and pipes of tunnels are kept.
	var after [3]float64
	back := func() bool {
		after = w.resources()
		return after[0] <= before[0]*3/2+32<<20 && after[1] <= before[1]+10 && after[2] <= before[2]+20
	}
	for begin := time.Now(); time.Since(begin) < 2*patience && !back(); {
		time.Sleep(time.Second)
	}
	require.True(t, back(), "memory, goroutines and files before and after: %v, %v", before, after)
	t.Logf("%d requests, %d hostile clients; before and after: RSS %.0f, %.0f MB, goroutines %v, %v, files %v, %v",
		requests.Load(), hostile.Load(), before[0]/(1<<20), after[0]/(1<<20), before[1], after[1], before[2], after[2])
}
