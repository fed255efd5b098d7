package integration

import (
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A test that measures a wait compares it with a control that runs at the same time on the same machine. The
// control is a child process that repeatedly waits and then sends one byte to this process. A wait in the
// gateway needs a timer, a send, and a receive in another process; the control needs the same. The lateness
// of the control therefore shows how late the machine is at that moment.

const (
	controlWait = 20 * time.Millisecond
	controlEnv  = "WHIRLPOOL_TEST_CONTROL" // address that the child process sends to
)

// control holds the lateness of the child process's waits.
type control struct {
	mu      sync.Mutex
	samples []sample
	since   time.Time // beginning of the current wait
}

type sample struct {
	ended time.Time
	late  time.Duration
}

// machine is the control of this test binary. TestMain starts it.
var machine control

// run starts the child process. The child process ends with this process.
func (c *control) run() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	child := exec.Command(self)
	child.Env = append(os.Environ(), controlEnv+"="+l.Addr().String())
	if err := child.Start(); err != nil {
		return err
	}
	conn, err := l.Accept()
	if err != nil {
		return err
	}
	c.since = time.Now()
	go c.receive(conn)
	return nil
}

func (c *control) receive(conn net.Conn) {
	one := make([]byte, 1)
	for {
		if _, err := conn.Read(one); err != nil {
			return
		}
		c.mu.Lock()
		now := time.Now()
		c.samples = append(c.samples, sample{now, now.Sub(c.since) - controlWait})
		c.since = now
		c.mu.Unlock()
		conn.Write(one)
	}
}

// worst returns the largest lateness of the waits that ended after begin, including the current wait.
func (c *control) worst(begin time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	worst := max(time.Since(c.since)-controlWait, 0)
	for i := len(c.samples) - 1; i >= 0 && c.samples[i].ended.After(begin); i-- {
		worst = max(worst, c.samples[i].late)
	}
	return worst
}

// controlProcess is the child process: it waits, sends one byte, and waits for the byte that comes back.
func controlProcess(addr string) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	one := make([]byte, 1)
	for {
		time.Sleep(controlWait)
		if _, err := conn.Write(one); err != nil {
			return
		}
		if _, err := io.ReadFull(conn, one); err != nil {
			return
		}
	}
}

// tolerance returns by how much an event after begin may be late. It is 60 ms on a quiet machine, plus eight
// times the largest lateness of the control since 5 s before begin. From the timer in the gateway to the
// record in a fake, a retry waits for a processor up to eight times (timer, dial, accept, goroutines,
// reads); the control waits twice.
func tolerance(begin time.Time) time.Duration {
	return 60*time.Millisecond + 8*machine.worst(begin.Add(-5*time.Second))
}

// requireTook checks the duration of a response: at least the given seconds, and at most the tolerance
// longer.
func requireTook(t *testing.T, a response, seconds float64) {
	t.Helper()
	due := time.Duration(seconds * float64(time.Second))
	require.GreaterOrEqual(t, a.duration, due, "the answer is early")
	require.LessOrEqual(t, a.duration, due+tolerance(a.sentAt), "the answer is late")
}

// The control measures that this process is late.
func TestTheControlIsLateWithTheMachine(t *testing.T) {
	begin := time.Now()
	machine.mu.Lock() // so that the next byte of the control is received late
	time.Sleep(200 * time.Millisecond)
	machine.mu.Unlock()
	require.Greater(t, machine.worst(begin), 150*time.Millisecond)
	require.Less(t, machine.worst(time.Now()), 10*time.Second)
}
