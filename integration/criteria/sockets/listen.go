//go:build linux

// Package sockets runs workloads through gateways in real time, with fakes and clients on loopback. The gateways are
// the built binary of Whirlpool and the proxies that it is compared with (package peers).
package sockets

import (
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/integration/criteria/fakes"
	"github.com/whirlpool-proxy/whirlpool/integration/criteria/workload"
)

// networks is the number of networks for fakes, from 127.2.0.0/16 on.
const networks = 253

// port is the port of all fakes; each fake has its own address. The port is below the range from which the
// kernel chooses ports for outgoing connections. Within that range, the port of a fake that must refuse
// connections might be in use by another program.
const port = 18080

// listeners are the sockets of a pool.
type listeners struct {
	pool   *fakes.Pool
	addrs  []string
	closed chan struct{}
	wg     sync.WaitGroup

	network net.Listener // marks the network as in use

	mu      sync.Mutex // guards the fields below
	sockets []net.Listener
	conns   []map[net.Conn]struct{}
}

// listen opens the sockets of the proxies that accept connections. Their addresses are in a network 127.N.x.y that no
// other process uses. The parameter network, any number from 0 on, selects the network at which the search begins. The
// process listens on 127.N.255.254, so that other processes skip this network.
func listen(p *fakes.Pool, w *workload.Workload, network int) (*listeners, error) {
	l := &listeners{pool: p, closed: make(chan struct{}), sockets: make([]net.Listener, len(w.Pool))}
	var err error
	for range networks {
		network = network%networks + 2
		if l.network, err = net.Listen("tcp", fmt.Sprintf("127.%d.255.254:%d", network, port)); err == nil {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	for i := range w.Pool {
		l.addrs = append(l.addrs, fmt.Sprintf("127.%d.%d.%d:%d", network, i/250, i%250+1, port))
		l.conns = append(l.conns, map[net.Conn]struct{}{})
	}
	for i := range w.Pool {
		if p.State(i, fakes.NoTarget).Refuses {
			continue
		}
		if err := l.acceptConns(i); err != nil {
			l.close()
			return nil, err
		}
	}
	return l, nil
}

// acceptConns begins to accept connections to a proxy.
func (l *listeners) acceptConns(proxy int) error {
	socket, err := net.Listen("tcp", l.addrs[proxy])
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.sockets[proxy] = socket
	l.mu.Unlock()
	l.wg.Go(func() {
		for {
			c, err := socket.Accept()
			if err != nil {
				return
			}
			l.mu.Lock()
			refused := l.sockets[proxy] != socket // the socket was replaced after this connection was accepted
			if !refused {
				l.conns[proxy][c] = struct{}{}
			}
			l.mu.Unlock()
			if refused {
				c.Close()
				return
			}
			l.wg.Go(func() {
				l.pool.Serve(c, proxy)
				l.mu.Lock()
				delete(l.conns[proxy], c)
				l.mu.Unlock()
			})
		}
	})
	return nil
}

// refuseConns closes the socket of a proxy and resets its connections.
func (l *listeners) refuseConns(proxy int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sockets[proxy] != nil {
		l.sockets[proxy].Close()
		l.sockets[proxy] = nil
	}
	for c := range l.conns[proxy] {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
}

// applyChanges opens and closes sockets at the times of the workload's changes. These times count from the pool's
// Begin. Its goroutines end when close is called.
func (l *listeners) applyChanges(w *workload.Workload) {
	for i := range w.Pool {
		changes := w.Pool[i].Changes
		for n := 1; n < len(changes); n++ {
			if changes[n].Refuses == changes[n-1].Refuses {
				continue
			}
			l.wg.Go(func() {
				select {
				case <-time.After(changes[n].At - l.pool.Now()):
				case <-l.closed:
					return
				}
				if changes[n].Refuses {
					l.refuseConns(i)
				} else if err := l.acceptConns(i); err != nil {
					fmt.Fprintln(os.Stderr, "criteria: a proxy cannot listen again:", err)
				}
			})
		}
	}
}

// close closes all sockets and waits until all goroutines of the listeners have ended. The pool is not used afterwards.
func (l *listeners) close() {
	close(l.closed)
	defer l.network.Close()
	for i := range l.addrs {
		l.refuseConns(i)
	}
	l.wg.Wait()
}
