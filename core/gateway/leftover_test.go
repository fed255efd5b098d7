package gateway

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// A target writes a body after a 204. The bytes that are left on the idle connection are not treated as the
// next response. The next request is repeated if that is permitted, and the proxy is not charged.
func TestABodyAfterA204(t *testing.T) {
	for method, status := range map[string]int{"GET": 200, "POST": 502} {
		t.Run(method, func(t *testing.T) {
			var opened atomic.Int32
			r := newRig(t, func(c net.Conn) {
				b := bufio.NewReader(c)
				first := opened.Add(1) == 1
				for {
					if _, err := http.ReadRequest(b); err != nil {
						return
					}
					if !first {
						io.WriteString(c, ok("mine"))
						continue
					}
					io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
					if _, err := http.ReadRequest(b); err != nil { // the body comes after the next request
						return
					}
					io.WriteString(c, "<html>\r\n")
					first = false
				}
			}, nil)
			c := r.ask("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
			a, _ := c.answer("GET")
			require.Equal(t, 204, a.StatusCode)
			c.send(method + " http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
			a, body := c.answer(method)
			require.Equal(t, status, a.StatusCode)
			if status == 200 {
				require.Equal(t, "mine", body)
			}
			require.Zero(t, r.proxy.Breaker().Snapshot().FailureCount)
		})
	}
}

// A response with errors that RFC 9112 permits to repair is repaired and relayed.
func TestAResponseIsRepaired(t *testing.T) {
	r := newRig(t, answering(func(*http.Request, string) string {
		return "HTTP/1.1  200 OK\nX-XSS-Protection : 1\nA: b\n c\nContent-Length: 5\r\nContent-Length: 5\n\nhello"
	}), nil)
	c := r.dial()
	for range 2 {
		c.send("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
		require.Equal(t, "HTTP/1.1 200 OK", c.line())
		require.Equal(t, "X-XSS-Protection: 1", c.line())
		require.Equal(t, "A: b  c", c.line())
		require.Equal(t, "Content-Length: 5", c.line())
		for c.line() != "" {
		}
		body := make([]byte, 5)
		_, err := io.ReadFull(c.r, body)
		require.NoError(t, err)
		require.Equal(t, "hello", string(body))
	}
}

// 40 interim responses, in one segment or in 40 segments, precede the response that is relayed.
func TestManyInterimResponses(t *testing.T) {
	for name, write := range map[string]func(net.Conn, string){
		"in one segment": func(c net.Conn, one string) {
			all := ""
			for range 40 {
				all += one
			}
			io.WriteString(c, all+ok("hello"))
		},
		"in many": func(c net.Conn, one string) {
			for range 40 {
				io.WriteString(c, one)
			}
			io.WriteString(c, ok("hello"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(c net.Conn) {
				b := bufio.NewReader(c)
				for {
					if _, err := http.ReadRequest(b); err != nil {
						return
					}
					write(c, "HTTP/1.1 100 Continue\r\n\r\n")
				}
			}, nil)
			c := r.dial()
			for range 3 {
				c.send("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
				a, body := c.answer("GET")
				require.Equal(t, 200, a.StatusCode)
				require.Equal(t, "hello", body)
			}
		})
	}
}
