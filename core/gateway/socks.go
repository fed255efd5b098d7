package gateway

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/access"
	"github.com/whirlpool-proxy/whirlpool/core/accesslog"
	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/loop"
	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
	"github.com/whirlpool-proxy/whirlpool/core/session"
	"github.com/whirlpool-proxy/whirlpool/core/socks5"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// socksFront serves SOCKS5 on a client connection (RFC 1928, RFC 1929). It serves one CONNECT request like an HTTP
// CONNECT. The request's retry policy is the global policy or the policy of a routing rule, merged with the option
// "retry" of the user name.
type socksFront struct {
	server          *Server
	conn            *connection
	settings        *settings       // in force when the connection began
	account         *access.Account // the account of the user; nil if no user has logged in
	options         session.Options // the options of the user name
	loopTokens      []byte          // the loop tokens that the client has sent; see package loop
	clientIsGateway bool            // the client is a gateway: it has offered to send loop tokens
	responseBuf     pooledBuffer

	credentials    []byte // credentials of the client, as a value of Proxy-Authorization; nil without a user name
	connectReplied bool   // the client got the reply to its request before a tunnel was open
}

func newSOCKSFront(s *Server, c *connection) *socksFront {
	set := s.settings.Load()
	c.writer.configure(set)
	return &socksFront{
		server: s, conn: c, settings: set, account: set.users.ByCertificate(c.certNames),
		responseBuf: pooledBuffer{pool: s.writeBuffers},
	}
}

// serve authenticates the client, reads its request and serves the tunnel.
func (f *socksFront) serve() {
	f.conn.readControl.inHandshake.Store(true)
	err := f.authenticate()
	var target proxyhttp.Authority
	if err == nil {
		target, err = f.readTarget()
	}
	if err != nil {
		f.server.Log.Debug("SOCKS5 client refused", slog.Any("error", err))
		var option *session.OptionError
		var bad *socks5.RequestError
		switch {
		case errors.Is(err, errMethod), errors.Is(err, errCredentials):
			f.logRefused(http.StatusProxyAuthRequired, "proxy_authentication_required")
		case errors.Is(err, errBlocked):
			f.logRefused(http.StatusTooManyRequests, "too_many_failed_logins")
		case errors.Is(err, loop.ErrOwnToken):
			f.server.Log.Warn("a SOCKS5 connection came back", slog.Any("error", err))
			f.logRefused(http.StatusLoopDetected, "loop_detected")
		case errors.Is(err, loop.ErrTooManyGateways):
			f.logRefused(http.StatusBadRequest, "too_many_gateways")
		case errors.As(err, &option):
			f.logRefused(http.StatusProxyAuthRequired, "invalid_user_option")
		case errors.As(err, &bad):
			f.logRefused(http.StatusBadRequest, "malformed_request")
		}
		f.conn.linger(false)
		return
	}
	if !f.conn.readControl.setPhase(phaseBusy) {
		return
	}
	growStack()
	if f.settings.interception != nil && f.interceptTunnel(&target) {
		return
	}
	f.serveConnect(&target)
}

// respondNoPlace implements front. It sends all replies together, without waiting for the client's next message. The
// replies are: a method that the client offers (RFC 1928 section 3), the success of the login if the method has a
// login, and "general failure". It sends the reply "no acceptable methods" only if the gateway supports none of the
// offered methods, because clients report this reply as a wrong password.
func (f *socksFront) respondNoPlace() {
	f.conn.writer.setDeadline(f.server.Now().Add(time.Second))
	offered, _, err := socks5.ParseMethods(f.conn.reader.Buffered())
	var b [16]byte
	switch {
	case err != nil || bytes.IndexByte(offered, socks5.NoAuth) >= 0: // an err means that the message is incomplete
		f.send(socks5.AppendReply(append(b[:0], socks5.Version, socks5.NoAuth), socks5.GeneralFailure)...)
	case bytes.IndexByte(offered, socks5.UserPassword) >= 0:
		f.send(socks5.AppendReply(append(b[:0], socks5.Version, socks5.UserPassword, socks5.AuthVersion, 0),
			socks5.GeneralFailure)...)
	default:
		f.send(socks5.Version, socks5.NoMethod)
	}
	f.logRefused(http.StatusServiceUnavailable, codeNoPlace)
	f.conn.linger(false)
}

// The errors of authenticate.
var (
	errMethod      = errors.New("the SOCKS5 client offers no acceptable authentication method")
	errCredentials = errors.New("the SOCKS5 client has sent a wrong user name or password")
	errBlocked     = errors.New("too many logins from the address of the SOCKS5 client have failed")
)

// authenticate chooses an authentication method and checks the client's credentials. If the gateway has no users, it
// accepts any credentials.
func (f *socksFront) authenticate() error {
	var method byte = socks5.NoMethod
	err := f.readMessage(func(b []byte) (int, error) {
		offered, n, err := socks5.ParseMethods(b)
		for _, m := range offered {
			switch {
			case m == socks5.Tokens:
				f.clientIsGateway = f.server.Loop.SendsTokens()
			case m == socks5.NoAuth &&
				(f.settings.users.Len() == 0 || f.account != nil && method != socks5.UserPassword):
				method = m
			case m == socks5.UserPassword && (f.settings.users.Len() > 0 || method != socks5.NoAuth):
				method = m // user name and password take precedence over the client's certificate
			}
		}
		return n, err
	})
	if err != nil {
		return err
	}
	if f.clientIsGateway {
		if err := f.readTokens(method); err != nil {
			return err
		}
	} else {
		f.send(socks5.Version, method)
	}
	switch method {
	case socks5.NoMethod:
		return errMethod
	case socks5.NoAuth:
		return nil
	}
	var name, password string
	err = f.readMessage(func(b []byte) (n int, err error) {
		name, password, n, err = socks5.ParseCredentials(b)
		return n, err
	})
	if err != nil {
		return err
	}
	if f.settings.users.Len() > 0 {
		l := access.Login{Listener: access.SOCKS5, From: f.conn.netConn.RemoteAddr(), User: name}
		var result access.Result
		var options string
		l.User, options = f.settings.users.SplitName(name)
		f.conn.readControl.endBodyWait() // the client does not have to send anything while its password is checked
		f.account, result, _ = f.settings.users.Login(f.conn.ctx, f.server.Guard, l, password)
		f.conn.readControl.setCurrentWait(requestWait, f.server.Now())
		if result != access.Accepted {
			f.send(socks5.AuthVersion, 1) // every status except 0 is a failure
			if result == access.Blocked {
				return errBlocked
			}
			return errCredentials
		}
		f.credentials = basicCredentials(name, password)
		if f.options, err = f.server.parseOptions(options, l); err != nil {
			f.send(socks5.AuthVersion, 1)
			return err
		}
	}
	f.send(socks5.AuthVersion, 0)
	return nil
}

// readTokens reads the loop tokens that the client offers to send (see package socks5). It then sends the
// authentication method that the client must use next. It returns loop.ErrOwnToken or loop.ErrTooManyGateways if the
// connection must not be served.
func (f *socksFront) readTokens(method byte) error {
	f.send(socks5.Version, socks5.Tokens)
	err := f.readMessage(func(b []byte) (int, error) {
		tokens, n, err := socks5.ParseTokens(b)
		f.loopTokens = append(f.loopTokens[:0], tokens...)
		return n, err
	})
	if err != nil {
		return err
	}
	valid, err := f.server.Loop.Check(f.loopTokens)
	if !valid {
		f.loopTokens = nil
	}
	status := socks5.TokensAccepted
	switch {
	case errors.Is(err, loop.ErrOwnToken):
		status = socks5.TokensOwn
	case err != nil:
		status = socks5.TokensTooMany
	}
	f.send(socks5.TokensVersion, byte(status), method)
	return err
}

// readTarget reads the client's request and returns its target. If the request cannot be carried out,
// readTarget sends the reply and returns an error.
func (f *socksFront) readTarget() (target proxyhttp.Authority, err error) {
	err = f.readMessage(func(b []byte) (int, error) {
		hostPort, n, err := socks5.ParseRequest(b)
		if err != nil {
			return n, err
		}
		if err := target.Set([]byte(hostPort), ""); err != nil {
			return n, &socks5.RequestError{Reply: socks5.GeneralFailure, Msg: err.Error()}
		}
		return n, nil
	})
	if bad := (*socks5.RequestError)(nil); errors.As(err, &bad) {
		f.sendReply(bad.Reply)
	}
	return target, err
}

// serveConnect runs the client's request and serves the tunnel.
func (f *socksFront) serveConnect(target *proxyhttp.Authority) {
	s := f.server
	policy := s.Policies.Current()
	priority := core.PriorityNormal
	if f.account != nil {
		priority = priority.AtMost(f.account.Priority)
	}
	var regions *core.Regions
	var ex executor.Exchange
	l := f.newRecord()
	l.Target, l.Started = target.HostPort, s.Now()
	if s.logsRequests() {
		defer func() {
			if l.Executed {
				addResult(&l, &ex)
			}
			s.logEnded(&l, f.conn)
		}()
	}
	if a := f.account; a != nil {
		if bad := beginRequest(a, target, s.Now()); bad != nil {
			l.Status, l.Code = bad.Status, bad.Code
			f.reportRefused(&l)
			f.sendReply(socks5.NotAllowed)
			f.conn.linger(false)
			return
		}
		defer a.EndRequest()
		f.conn.writer.user, regions = a, a.Regions()
	}
	entry := s.Tracker.Track()
	defer entry.Release()
	in := executor.Request{
		ID: l.ID, Policy: policy, GlobalPolicy: policy, Method: http.MethodConnect, Host: target.Host,
		Target: target.Target, WantsTunnel: true, Idempotent: true, Safe: true, Replayable: true,
		Listener: core.ListenSOCKS5, Started: l.Started, BeforeWait: f.conn.clientWatch.start,
		Progress: entry, Priority: priority, Regions: regions,
	}
	in.KeepEvents, in.User = s.logsRequests(), l.User
	l.Trace = s.newTrace(nil, l.ID)
	s.Executor.Route(&in)
	in.Policy, l.Rules = in.Route.Policy(policy), in.Route.Labels()
	var sessionUse session.Handle
	if err := f.applyOptions(&in, &sessionUse); err != nil {
		l.Status, l.Code = http.StatusForbidden, "override_not_allowed"
		f.reportRefused(&l)
		f.sendReply(socks5.NotAllowed)
		f.conn.linger(false)
		return
	}
	entry.Begin(in.ID, in.Method, in.Host, in.Started)
	control := transport.Control{OnSlow: f.conn.clientWatch.start, LoopTokens: f.loopTokens}
	defer context.AfterFunc(f.conn.ctx, control.Interrupt.Cancel)()
	defer ex.Abandon()
	dial := proxyhttp.TunnelSender{Transport: s.Transport, Control: &control, Authority: target.HostPort}
	ending := executor.Run(f.conn.ctx, s.Executor, &ex, &in, &dial)
	f.conn.clientWatch.stop()
	l.Executed = true
	switch {
	case ending.Tunnel != nil:
		f.responseBuf.buf = f.responseBuf.get()
		if !f.connectReplied {
			f.responseBuf.buf = socks5.AppendReply(f.responseBuf.buf, socks5.Succeeded)
		}
		l.Status = http.StatusOK
		l.Received, l.Sent = s.serveTunnel(f.conn, ending.Tunnel, ending.Response, &dial, &f.responseBuf)
		s.countBytes(in.Host, l.Received+l.Sent, time.Time{})
		return
	case ending.Relay != nil:
		refused := ending.Response.Refused.Status
		l.Status = refused
		ending.Relay.Close(refused, verdict.RelayEnd{}, s.Now())
		f.sendReply(replyToStatus(refused))
	default:
		if errors.Is(context.Cause(f.conn.ctx), executor.ErrClientLeft) {
			ending.Refusal.Close(0, s.Now())
			l.ClientLeft = true
			return
		}
		response := proxyhttp.RefusalResponse(ending.Refusal)
		l.Status, l.Code = response.Status, response.Code
		ending.Refusal.Close(response.Status, s.Now())
		if f.clientIsGateway && response.Status == http.StatusLoopDetected {
			f.sendReply(socks5.LoopDetected)
			break
		}
		f.sendReply(replyToReason(response.Reason))
	}
	f.conn.linger(false)
}

// newRecord returns the record of the request for the access log, with the fields that are known before the request is
// served.
func (f *socksFront) newRecord() accesslog.Record {
	l := accesslog.Record{ID: f.server.NewID(), Listener: core.ListenSOCKS5, Method: http.MethodConnect, Minor: 1}
	if f.account != nil {
		l.User = f.account.Name
	}
	return l
}

// logRefused counts a refused request, and adds records of it to the log and the access log. status and code are the
// status and the code of the response that an HTTP client would get.
func (f *socksFront) logRefused(status int, code string) {
	l := f.newRecord()
	l.Status, l.Code = status, code
	f.reportRefused(&l)
	if f.server.logsRequests() {
		f.server.logEnded(&l, f.conn)
	}
}

func (f *socksFront) reportRefused(l *accesslog.Record) {
	f.server.reportRefused(f.conn, refusedRequest{l.ID, l.Listener, l.Code, l.User, l.Target})
}

// replyToStatus returns the reply for a CONNECT that a proxy refused with an HTTP status.
func replyToStatus(status int) socks5.Reply {
	switch status {
	case http.StatusForbidden, http.StatusUnavailableForLegalReasons:
		return socks5.NotAllowed
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return socks5.HostUnreachable
	}
	return socks5.GeneralFailure
}

// replyToReason returns the reply for an RFC 9209 error token (section 2.3).
func replyToReason(reason string) socks5.Reply {
	switch reason {
	case "connection_refused":
		return socks5.ConnectionRefused
	case "destination_ip_unroutable":
		return socks5.NetworkUnreachable
	case "dns_error", "dns_timeout", "destination_not_found", "connection_timeout":
		return socks5.HostUnreachable
	case "destination_ip_prohibited", "http_request_denied":
		return socks5.NotAllowed
	}
	return socks5.GeneralFailure
}

// readMessage reads one message of the client. It calls the function parse with the bytes that have arrived. This
// function returns the length of the message, or socks5.ErrIncomplete if more bytes are needed.
func (f *socksFront) readMessage(parse func(b []byte) (n int, err error)) error {
	for {
		n, err := parse(f.conn.reader.Buffered())
		if err == nil {
			f.conn.reader.Discard(n)
			return nil
		}
		if !errors.Is(err, socks5.ErrIncomplete) {
			return err
		}
		f.conn.readControl.beginHeadWait(f.server.Now().Add(f.settings.Head))
		if err := f.conn.reader.ReadAhead(); err != nil {
			return err
		}
	}
}

// send sends bytes to the client. It ignores write errors, because the next read fails too.
func (f *socksFront) send(b ...byte) { f.conn.write(b) }

// sendReply sends a reply to the client's request, unless the client already has a reply to this request.
func (f *socksFront) sendReply(code socks5.Reply) {
	if f.connectReplied {
		return
	}
	var b [16]byte
	f.conn.write(socks5.AppendReply(b[:0], code))
}
