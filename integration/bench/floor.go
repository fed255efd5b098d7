//go:build linux

package main

import (
	"bytes"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// serveFloor runs the floor, a minimal proxy. Its results show how fast any proxy can be on this machine. Each thread
// has its own epoll(7), its own connections to the upstream proxies, and its own list of idle connections. A thread
// uses the upstream proxies in turn. The floor finds the end of a head and the length of a body. It has no retries,
// limits, deadlines or logs, and a response must fit into the buffer of a socket.
func serveFloor(addr string, threads int, upstreams []string) error {
	ended := make(chan error)
	for range threads {
		go func() { ended <- runFloor(addr, upstreams) }()
	}
	return <-ended
}

func runFloor(addr string, upstreams []string) error {
	at, err := sockaddr(addr)
	if err != nil {
		return err
	}
	f := &floor{buf: make([]byte, 64<<10), idle: make([][]*floorConn, len(upstreams))}
	for _, u := range upstreams {
		to, err := sockaddr(u)
		if err != nil {
			return err
		}
		f.upstreams = append(f.upstreams, to)
	}
	if f.loop, err = newLoop(); err != nil {
		return err
	}
	fd, err := socket()
	if err != nil {
		return err
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) // so that each thread has a listener
	noDelay(fd)
	if err := unix.Bind(fd, at); err != nil {
		return fmt.Errorf("bind to %s: %w", addr, err)
	}
	if err := unix.Listen(fd, 4096); err != nil {
		return err
	}
	if err := f.loop.add(fd, &floorListener{f, fd}); err != nil {
		return err
	}
	for {
		if err := f.loop.wait(-1); err != nil {
			return err
		}
	}
}

func sockaddr(addr string) (*unix.SockaddrInet4, error) {
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}, nil
}

// floor is one thread of the floor.
type floor struct {
	loop      *loop
	upstreams []*unix.SockaddrInet4
	next      int
	idle      [][]*floorConn // idle connections by upstream proxy
	buf       []byte         // shared buffer; its contents are valid during one call only
}

type floorListener struct {
	*floor
	fd int
}

func (l *floorListener) ready(bool, bool) {
	for {
		fd, _, err := unix.Accept4(l.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err == unix.EAGAIN {
			return
		}
		if err != nil {
			continue // the client has already closed this connection
		}
		c := &floorConn{floor: l.floor, fd: fd}
		if l.loop.add(fd, c) != nil {
			unix.Close(fd)
			continue
		}
		c.ready(true, false) // most of the request has usually already arrived
	}
}

// floorConn is a connection of a client or to an upstream proxy.
type floorConn struct {
	*floor
	fd         int
	peer       *floorConn // the other connection of a tunnel, or of the request in flight
	upstream   int        // index of the upstream proxy
	isUpstream bool       // the connection leads to an upstream proxy
	tunnel     bool       // the tunnel is open
	length     int64      // bytes of the response that have not arrived; 0 before its head
}

var floorTunnelHead = []byte("HTTP/1.1 200 OK\r\n\r\n")

func (c *floorConn) ready(readable, ended bool) {
	if !readable {
		return
	}
	n, blocked, err := receive(c.fd, c.buf)
	switch {
	case blocked:
	case err != nil || n == 0:
		c.end()
	case !c.forward(c.buf[:n]) || ended:
		c.end()
	}
}

// forward forwards the bytes p that have arrived on c. It returns false if c must be closed.
func (c *floorConn) forward(p []byte) bool {
	switch {
	case c.tunnel:
		return c.peer.send(p)
	case !c.isUpstream:
		return c.peer == nil && c.forwardRequest(p)
	case c.peer == nil:
		return false // no request is in flight
	case c.peer.tunnel: // the response to the CONNECT
		c.tunnel = true
		return c.peer.send(floorTunnelHead)
	}
	if c.length == 0 {
		end := bytes.Index(p, headEnd)
		if end < 0 {
			return false
		}
		c.length = int64(end+len(headEnd)) + contentLength(p[:end+len(headEnd)])
	}
	if c.length -= int64(len(p)); c.length > 0 {
		return c.peer.send(p)
	}
	client := c.peer
	c.peer, client.peer = nil, nil
	c.idle[c.upstream] = append(c.idle[c.upstream], c)
	return client.send(p)
}

// forwardRequest sends the request p of a client to the next upstream proxy. It returns false if c must be closed.
func (c *floorConn) forwardRequest(p []byte) bool {
	if !bytes.HasSuffix(p, headEnd) {
		return false
	}
	upstream := c.floor.next % len(c.upstreams)
	c.floor.next++
	connect := p[0] == 'C'
	idle := c.idle[upstream]
	if connect || len(idle) == 0 {
		u, err := c.dial(upstream)
		if err != nil {
			return false
		}
		c.peer = u
	} else {
		c.peer, c.idle[upstream] = idle[len(idle)-1], idle[:len(idle)-1]
	}
	c.peer.peer, c.tunnel = c, connect
	return c.peer.send(p)
}

func (f *floor) dial(to int) (*floorConn, error) {
	fd, err := socket()
	if err != nil {
		return nil, err
	}
	noDelay(fd)
	c := &floorConn{floor: f, fd: fd, upstream: to, isUpstream: true}
	if err := unix.Connect(fd, f.upstreams[to]); err != nil && err != unix.EINPROGRESS {
		unix.Close(fd)
		return nil, err
	}
	return c, f.loop.add(fd, c)
}

func (c *floorConn) send(p []byte) bool {
	n, _, err := send(c.fd, p)
	return err == nil && n == len(p)
}

// end closes c, and the connection that shares a request or a tunnel with c.
func (c *floorConn) end() {
	for _, s := range []*floorConn{c, c.peer} {
		if s != nil && s.fd >= 0 {
			s.loop.close(s.fd)
			s.fd = -1
		}
	}
	if c.isUpstream && c.peer == nil {
		for i, k := range c.idle[c.upstream] {
			if k == c {
				c.idle[c.upstream] = append(c.idle[c.upstream][:i], c.idle[c.upstream][i+1:]...)
				break
			}
		}
	}
}
