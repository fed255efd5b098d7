package gateway

import (
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/access"
	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/session"
)

// parseOptions parses the options in the user name of an accepted login; "" stands for no options. It logs wrong
// options, because few clients show the message of a 407, and a SOCKS5 reply has no message.
func (s *Server) parseOptions(text string, l access.Login) (session.Options, error) {
	if text == "" {
		return session.Options{}, nil
	}
	o, err := session.ParseOptions(text)
	if err != nil {
		s.Log.Warn("login refused because of an option in the user name", slog.String("listener", l.Listener.String()),
			slog.Any("client", l.From), slog.String("user", l.User), slog.Any("error", err))
	}
	return o, err
}

func wrongOptionResponse(err error) *proxyhttp.ErrorResponse {
	return &proxyhttp.ErrorResponse{
		Status: http.StatusProxyAuthRequired, Code: "invalid_user_option", Message: err.Error(),
		Reason: "http_request_denied",
	}
}

// attemptsOverride returns the override that has the same effect as the option "retry" in a user name.
func attemptsOverride(attempts int) string { return "max_attempts=" + strconv.Itoa(attempts) }

// wantedSession returns the session that the request asks for in X-Whirlpool-Session or, without this field, in the
// user name. The ID of the result is "" if the request asks for no session.
func (r *request) wantedSession() (session.Request, error) {
	value, _, err := r.whirlpoolField("x-whirlpool-session")
	if err != nil || len(value) == 0 {
		return r.cache.options.Session, err
	}
	return session.ParseField(string(value))
}

// joinSession begins the use of the session that the request asks for. It does nothing if the request asks for no
// session, or goes directly to its target.
func (r *request) joinSession(now time.Time) {
	if r.sessionRequest.ID != "" && !r.input.Route.IsDirect() {
		region := r.input.Route.SessionScope(r.input.Region)
		r.sessionUse = r.server.beginSession(r.cache.account, r.sessionRequest, region, now)
		r.input.Session = &r.sessionUse
	}
}

// beginSession begins the use of a session by the user with the given account. The account is nil if the gateway has no
// users. The parameter region is the result of Route.SessionScope.
func (s *Server) beginSession(a *access.Account, wanted session.Request, region string, now time.Time) session.Handle {
	user := ""
	if a != nil {
		user = a.Name
	}
	return s.Sessions.Begin(session.KeyOf(user, wanted.ID, region), wanted, now)
}

// applyOptions applies the options of the user name to the request. If the options name a session, it begins to use
// this session and stores the handle in sessionUse. It returns errOverride if the option "retry" is not allowed, or the
// error of Policy.Overridden.
func (f *socksFront) applyOptions(in *executor.Request, sessionUse *session.Handle) error {
	o := &f.options
	in.Region, in.RegionStrict, in.PreferredTag = o.Region, o.RegionStrict, o.CityTag
	if o.MaxAttempts > 0 {
		mode := f.settings.overrideMode(f.account)
		if mode == retry.OverrideNone {
			return errOverride
		}
		p, err := in.Policy.Overridden(retry.Override{MaxAttempts: &o.MaxAttempts}, mode, f.settings.Strategies)
		if err != nil {
			return err
		}
		in.Policy = &p
	}
	if o.Session.ID != "" && !in.Route.IsDirect() {
		*sessionUse = f.server.beginSession(f.account, o.Session, in.Route.SessionScope(in.Region), in.Started)
		in.Session = sessionUse
	}
	return nil
}
