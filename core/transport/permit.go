package transport

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"
)

var errOwnAddress = errors.New("the target is not allowed: it is this gateway or its API")

// deniedError reports that direct:// must not connect to an address of the target.
type deniedError struct {
	err error // names the rule; its text may be sent to the client
	to  string
}

// Error returns the rule and the address. The text must not be sent to clients, because it contains the
// address to which a name resolves.
func (e *deniedError) Error() string {
	if e.to == "" {
		return e.err.Error()
	}
	return e.err.Error() + ", at " + e.to
}

// DeniedText returns the text of an error with the cause verdict.EgressDenied that may be sent to
// the client.
func DeniedText(err error) string {
	var denied *deniedError
	if errors.As(err, &denied) {
		return denied.err.Error()
	}
	return "the target is not allowed"
}

// dialPermitted opens a TCP connection to a target if Config.CheckAddress permits its address. If a name has several
// addresses, only the permitted addresses are dialled. If no connection can be opened and an address was denied, the
// error is the denial. The request is then refused and not retried.
func (t *Transport) dialPermitted(ctx context.Context, hostPort string, deadline time.Time, c *Control) (net.Conn,
	error) {
	if t.cfg.CheckAddress == nil {
		return t.dialBudgeted(ctx, hostPort, deadline, c, nil)
	}
	denied := make(chan *deniedError, 1) // addresses may be dialled at the same time
	conn, err := t.dialBudgeted(ctx, hostPort, deadline, c, func(to netip.AddrPort) error {
		rule := t.cfg.CheckAddress(to)
		if rule == nil {
			return nil
		}
		e := &deniedError{rule, to.String()}
		select {
		case denied <- e:
		default:
		}
		return e
	})
	if err == nil && t.cfg.Dial != nil { // Config.Dial does not call checkAddress
		if err = t.checkRemoteAddress(conn); err != nil {
			conn.Close()
		}
	}
	if err != nil {
		select {
		case e := <-denied:
			err = e
		default:
		}
		return nil, err
	}
	return conn, nil
}

// checkRemoteAddress returns an error if Config.CheckAddress denies the address that c leads to.
func (t *Transport) checkRemoteAddress(c net.Conn) error {
	to, ok := c.RemoteAddr().(*net.TCPAddr)
	if t.cfg.CheckAddress == nil || !ok {
		return nil
	}
	if rule := t.cfg.CheckAddress(to.AddrPort()); rule != nil {
		return &deniedError{rule, to.String()}
	}
	return nil
}
