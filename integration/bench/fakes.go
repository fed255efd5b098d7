package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync/atomic"
)

// fakes is the number of upstream proxies.
const fakes = 8

// serveFakes runs the upstream proxies, prints their addresses on one line
// each, and lives until its standard input closes.
func serveFakes() error {
	for range fakes {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		fmt.Println(l.Addr())
		go acceptFakes(l)
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

func acceptFakes(l net.Listener) {
	arrivals := new(atomic.Uint64)
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go fake(c, arrivals)
	}
}

var (
	tunnelHead  = []byte("HTTP/1.1 200 OK\r\n\r\n")
	faultAnswer = []byte("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy")
	zeros       = make([]byte, 256<<10)
)

// fake answers for the origin: the last element of the path is the size of the
// answer, "/faults/" in it makes each tenth arrival a 503. A CONNECT stands at
// once and is answered in the same way.
func fake(c net.Conn, arrivals *atomic.Uint64) {
	defer c.Close()
	buf := make([]byte, 16<<10)
	n := 0
	var answer []byte // to the size asked for last
	last := -1
	for {
		end := bytes.Index(buf[:n], []byte("\r\n\r\n"))
		if end < 0 {
			if n == len(buf) {
				return
			}
			m, err := c.Read(buf[n:])
			if err != nil {
				return
			}
			n += m
			continue
		}
		head := buf[:end+4]
		line := head[:bytes.IndexByte(head, '\r')]
		if bytes.HasPrefix(line, []byte("CONNECT ")) {
			c.Write(tunnelHead)
			n = copy(buf, buf[len(head):n])
			continue
		}
		target := line[:bytes.LastIndexByte(line, ' ')]
		size, err := strconv.Atoi(string(target[bytes.LastIndexByte(target, '/')+1:]))
		if err != nil {
			return
		}
		faulty := bytes.Contains(target, []byte("/faults/"))
		body := contentLength(head)
		n = copy(buf, buf[len(head):n])
		if body > 0 {
			body -= int64(n)
			n = 0
			big := zeros // whoever reads into it writes what nobody looks at
			if body > 0 {
				big = make([]byte, 256<<10)
			}
			for body > 0 {
				m, err := c.Read(big)
				if err != nil {
					return
				}
				body -= int64(m)
			}
		}
		switch {
		case faulty && arrivals.Add(1)%10 == 0:
			c.Write(faultAnswer)
		case size > len(zeros):
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size)
			for left := size; left > 0; left -= len(zeros) {
				if _, err := c.Write(zeros[:min(left, len(zeros))]); err != nil {
					return
				}
			}
		default:
			if size != last {
				last = size
				answer = fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n", size)
				answer = append(answer, zeros[:size]...)
			}
			if _, err := c.Write(answer); err != nil {
				return
			}
		}
	}
}

// contentLength finds the field of that name in a head, whatever its case.
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
