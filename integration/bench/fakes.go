//go:build linux

package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// fakes is the number of upstream proxies.
const fakes = 8

// serveFakes runs the upstream proxies. It prints their addresses, one per line, and ends when its standard input is
// closed.
func serveFakes() error {
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	l, err := newLoop()
	if err != nil {
		return err
	}
	zeros, err := newZeros()
	if err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	for range fakes {
		fd, addr, err := listen()
		if err != nil {
			return err
		}
		if err := l.add(fd, &fakeListener{loop: l, fd: fd, zeros: zeros, buf: buf}); err != nil {
			return err
		}
		fmt.Println(addr)
	}
	for {
		if err := l.wait(-1); err != nil {
			return err
		}
	}
}

// fakeListener is one upstream proxy.
type fakeListener struct {
	loop     *loop
	fd       int
	zeros    zeros
	buf      []byte // shared buffer; its contents are valid during one call only
	arrivals uint64
}

func (f *fakeListener) ready(bool, bool) {
	for {
		fd, _, err := unix.Accept4(f.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err == unix.EAGAIN {
			return
		}
		if err != nil {
			continue // the client has already closed this connection
		}
		c := &fakeConn{fakeListener: f, stream: stream{fd: fd, zeros: f.zeros}, answerSize: -1}
		if err := f.loop.add(fd, c); err != nil {
			unix.Close(fd)
		}
	}
}

var (
	tunnelHead    = []byte("HTTP/1.1 200 OK\r\n\r\n")
	faultResponse = []byte("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy")
	headEnd       = []byte("\r\n\r\n")
)

// maxInline is the maximum size of a body that is sent together with the head.
const maxInline = 256 << 10

// fakeConn is one connection of a fake.
type fakeConn struct {
	*fakeListener
	stream
	partial    []byte // incomplete head
	response   []byte // response whose body has the size in the field last
	answerSize int
	reply      []byte // response to send when the request's body has arrived
	replyZeros int64  // number of zeros to send after reply
}

// ready responds in place of the target. The last element of the path is the size of the response. If the
// path contains "/faults/", every tenth request gets a 503. A CONNECT gets its response immediately; requests in the
// tunnel get the same responses as requests outside of tunnels.
func (c *fakeConn) ready(readable, ended bool) {
	if err := c.serve(readable, ended); err != nil {
		c.loop.close(c.stream.fd)
	}
}

func (c *fakeConn) serve(readable, ended bool) error {
	if blocked, err := c.flush(); blocked || err != nil {
		return err
	}
	if !readable {
		return nil
	}
	for {
		if blocked, err := c.dropInput(); blocked || err != nil {
			return err
		}
		if blocked, err := c.sendReply(); blocked || err != nil {
			return err
		}
		n := copy(c.buf, c.partial)
		m, blocked, err := receive(c.stream.fd, c.buf[n:])
		if blocked || err != nil {
			return err
		}
		if m == 0 {
			return errClosed
		}
		short := n+m < len(c.buf) && !ended
		rest := c.buf[:n+m]
		for {
			end := bytes.Index(rest, headEnd)
			if end < 0 {
				break
			}
			head := rest[:end+4]
			rest = rest[end+4:]
			body, err := c.chooseReply(head)
			if err != nil {
				return err
			}
			got := min(body, int64(len(rest)))
			rest, c.unwanted = rest[got:], body-got
			if c.unwanted > 0 {
				break
			}
			// If the response does not fit into the socket, the bytes in rest are dropped. They contain no request,
			// because the clients do not pipeline.
			if again, err := c.sendReply(); again || err != nil {
				return err
			}
		}
		c.partial = append(c.partial[:0], rest...)
		if short && c.unwanted == 0 {
			return nil // the next event follows with more bytes
		}
	}
}

// chooseReply chooses the response to a head. It returns the length of the request's body. The whole body must
// arrive before the response is sent.
func (c *fakeConn) chooseReply(head []byte) (body int64, err error) {
	if head[0] == 'C' {
		c.reply = tunnelHead
		return 0, nil
	}
	target := head[:bytes.IndexByte(head, '\r')-len(" HTTP/1.1")]
	size, err := strconv.Atoi(string(target[bytes.LastIndexByte(target, '/')+1:]))
	if err != nil {
		return 0, err
	}
	if head[0] == 'P' {
		body = max(contentLength(head), 0)
	}
	if bytes.Contains(target, []byte("/faults/")) {
		if c.arrivals++; c.arrivals%10 == 0 {
			c.reply = faultResponse
			return body, nil
		}
	}
	if size != c.answerSize {
		c.answerSize = size
		c.response = fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n", size)
		if size <= maxInline {
			c.response = append(c.response, make([]byte, size)...)
		}
	}
	c.reply = c.response
	if size > maxInline {
		c.replyZeros = int64(size)
	}
	return body, nil
}

// sendReply sends the response that has not been sent yet, if there is one.
func (c *fakeConn) sendReply() (blocked bool, err error) {
	if c.reply == nil {
		return false, nil
	}
	c.out, c.body = c.reply, c.replyZeros
	c.reply, c.replyZeros = nil, 0
	return c.flush()
}

// contentLength returns the value of the Content-Length field in a head; -1 if there is none. The letters C and L of
// the name may be in lower case.
func contentLength(head []byte) int64 {
	i := bytes.Index(head, []byte("ontent-"))
	for i >= 0 {
		rest := head[i+len("ontent-"):]
		if len(rest) > 8 && (string(rest[:8]) == "Length: " || string(rest[:8]) == "length: ") {
			var n int64
			for _, d := range rest[8:] {
				if d < '0' || d > '9' {
					break
				}
				n = n*10 + int64(d-'0')
			}
			return n
		}
		next := bytes.Index(rest, []byte("ontent-"))
		if next < 0 {
			break
		}
		i += len("ontent-") + next
	}
	return -1
}
