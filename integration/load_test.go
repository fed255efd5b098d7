package integration

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// Ten thousand requests are in flight at the same time. Each gets a response, one in ten after a retry, and
// all counts agree. Then the gateway returns the memory.
func TestS64TenThousandInFlight(t *testing.T) {
	clients := 10_000
	var limit syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	open, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	// Each client needs two descriptors in this process, and two in the gateway.
	if most := (int(limit.Cur)-len(open))/2 - 200; most < clients {
		t.Logf("the limit of open files is %d, %d are: %d clients", limit.Cur, len(open), most)
		clients = most
	}
	w := start(t, 4, confK+"[timeouts]\nattempt = \"10m\"\nconnect = \"10m\"\n")
	before := w.resident()
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	t.Cleanup(release)
	for _, f := range w.fakes {
		f.SetScript(func(n int, _ *http.Request) lab.Behaviour {
			b := lab.Behaviour{WaitFor: hold}
			if n%10 == 3 {
				b.Status = 503
			}
			return b
		})
	}
	var wg sync.WaitGroup
	var ok, failed, lost atomic.Int64
	arrived := func(n int) {
		for begin := time.Now(); time.Since(begin) < 10*time.Minute; time.Sleep(20 * time.Millisecond) {
			if w.arrivals() >= n {
				return
			}
		}
		t.Fatalf("%d of %d arrive", w.arrivals(), n)
	}
	for i := range clients {
		if i%500 == 0 {
			arrived(i - 1000) // otherwise the listener's queue overflows on a slow machine
		}
		wg.Go(func() {
			c, err := net.DialTimeout("tcp", w.gateway, 10*time.Minute)
			if err == nil {
				defer c.Close()
				_, err = fmt.Fprintf(c, "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n\r\n")
			}
			if err != nil {
				t.Error(err)
				return
			}
			c.SetDeadline(time.Now().Add(10 * time.Minute))
			r, err := http.ReadResponse(bufio.NewReaderSize(c, 512), nil)
			switch {
			case err != nil:
				lost.Add(1)
			case r.StatusCode == 200:
				ok.Add(1)
			default:
				failed.Add(1)
			}
		})
	}
	arrived(clients)
	require.Equal(t, clients, len(w.getJSON("/requests?state=attempting&limit=10000")["requests"].([]any)))
	release()
	wg.Wait()
	require.Zero(t, lost.Load())
	require.EqualValues(t, clients, ok.Load()+failed.Load())
	require.Greater(t, ok.Load(), int64(clients*99/100),
		"a retry fails in one case of ten, the third try in one of a hundred")
	s := w.getJSON("/metrics/retries")
	require.Equal(t, float64(clients), s["total_requests"])
	w.reconcile(0)
	require.Zero(t, len(w.getJSON("/requests?state=attempting")["requests"].([]any)))
	eventually(t, "the memory goes back", func() bool { return w.resident() < before*8/5 }) // 1.41 to 1.5 are measured
	t.Logf("%d KiB, then %d", before, w.resident())
}

// There are more clients than the limit of open files permits. They wait, or get a 503 if no place becomes free within
// 60 ms. No request is lost, and no failure is charged to a proxy.
func TestS64MoreClientsThanDescriptors(t *testing.T) {
	t.Parallel()
	w := start(t, 3, confK)
	w.limitFiles(300)
	w.setAll(lab.Slow(20 * time.Millisecond))
	var wg sync.WaitGroup
	var refused, closed atomic.Int64
	for range 600 {
		wg.Go(func() {
			for {
				switch status, sentAfter, err := w.getOnce(); {
				case err == nil && status == 200:
					return
				case err == nil && status == 503:
					refused.Add(1)
				case err != nil && sentAfter >= 10*time.Millisecond:
					// On a loaded machine: the gateway closed the connection of a silent client to make room for
					// another one, or the 503 came before the request was sent and was lost.
					closed.Add(1)
				default:
					t.Error(status, err)
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	t.Logf("%d refused, %d closed before their late requests", refused.Load(), closed.Load())
	for _, f := range w.fakes {
		require.Equal(t, 0.0, w.breaker(f.Name)["failure_count"])
	}
	// Idle clients need no descriptor for a proxy, so that another client can connect while there are 140 of them.
	w.setAll(lab.OK())
	for range 140 {
		c, err := net.Dial("tcp", w.gateway)
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		fmt.Fprintf(c, "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n\r\n")
		c.SetDeadline(time.Now().Add(eventTimeout))
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err)
		require.Equal(t, 200, r.StatusCode)
	}
	w.reconcile(0)
	eventually(t, "a word about the limit", func() bool { return strings.Contains(w.log.String(), "ulimit -n") })
}

// S267: many requests fail in a short time, at first at the target and then because no proxy is left. For each of the
// two kinds of failure, the log has a record of the first one, and then one record a second with the number of the
// others.
func TestS267AFloodOfFailuresIsFoldedInTheLog(t *testing.T) {
	t.Parallel()
	w := start(t, 2, notAdaptive+"[retry]\nmax_attempts = 1\n")
	w.setAll(lab.Status(503))
	const workers, each = 4, 1000
	began := time.Now()
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				if a := w.get(); a.status != 503 {
					t.Error(a.status, a.err)
				}
			}
		})
	}
	wg.Wait()
	record := regexp.MustCompile(`(?m)level=ERROR msg=("[^"]+")[^\n]*`)
	folded := regexp.MustCompile(` folded=(\d+) within=1s$`)
	count := func() (records, all int, kinds map[string]bool) {
		kinds = map[string]bool{}
		for _, m := range record.FindAllStringSubmatch(w.log.String(), -1) {
			records++
			kinds[m[1]] = true
			if m := folded.FindStringSubmatch(m[0]); m != nil {
				n, _ := strconv.Atoi(m[1])
				all += n
				continue
			}
			all++
		}
		return records, all, kinds
	}
	eventually(t, "each failed request is accounted for", func() bool {
		_, all, _ := count()
		return all >= workers*each
	})
	records, all, kinds := count()
	require.Equal(t, workers*each, all)
	require.Contains(t, kinds, `"request failed"`)
	seconds := int(time.Since(began)/time.Second) + 1
	require.LessOrEqual(t, records, 4*len(kinds)+2*len(kinds)*seconds, "%s", w.log)
}

// Many refused requests lead to few log records, which state the number of all of them.
func TestAFloodOfRefusalsIsFoldedInTheLog(t *testing.T) {
	w := start(t, 1, confOpen)
	w.setAll(lab.Status(503))
	w.tripBreaker(w.fakes[0])
	const workers, each = 4, 1500
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				if a := w.get(); a.status != 503 {
					t.Error(a.status, a.err)
				}
			}
		})
	}
	wg.Wait()
	record := regexp.MustCompile(`(?m)level=ERROR msg="no proxy admissible"[^\n]*`)
	folded := regexp.MustCompile(` folded=(\d+)`)
	refused := func() (records, all int) {
		for _, line := range record.FindAllString(w.log.String(), -1) {
			records++
			if m := folded.FindStringSubmatch(line); m != nil {
				n, _ := strconv.Atoi(m[1])
				all += n
				continue
			}
			all++
		}
		return records, all
	}
	eventually(t, "each refusal is accounted for", func() bool {
		_, all := refused()
		return all >= workers*each
	})
	records, _ := refused()
	require.Less(t, records, workers*each)
}
