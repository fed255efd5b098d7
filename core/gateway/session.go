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

// parseOptions parses the options of an accepted login's user name; text is "" for none. It logs wrong options,
// because few clients show the message of a 407, and SOCKS5 has no messages.
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

func wrongOption(err error) *proxyhttp.ErrorResponse {
	return &proxyhttp.ErrorResponse{
		Status: http.StatusProxyAuthRequired, Code: "invalid_user_option", Message: err.Error(),
		Reason: "http_request_denied",
	}
}

// attemptsOverride returns the override for the option retry.
func attemptsOverride(attempts int) string { return "max_attempts=" + strconv.Itoa(attempts) }

// wantedSession returns the session that the request asks for in X-Whirlpool-Session or, without this field, in the
// user name. Its ID is "" if the request asks for none.
func (r *request) wantedSession() (session.Request, error) {
	value, _, err := r.ownField("x-whirlpool-session")
	if err != nil || len(value) == 0 {
		return r.cache.options.Session, err
	}
	return session.ParseField(string(value))
}

// joinSession begins the request's use of the session that it asks for, if there is one.
func (r *request) joinSession(now time.Time) {
	if r.wanted.ID != "" {
		r.session = r.server.beginSession(r.cache.account, r.wanted, r.input.Region, now)
		r.input.Session = &r.session
	}
}

// beginSession begins the use of a user's session. The account is nil without users.
func (s *Server) beginSession(a *access.Account, wanted session.Request, region string, now time.Time) session.Use {
	user := ""
	if a != nil {
		user = a.Name
	}
	return s.Sessions.Begin(session.KeyOf(user, wanted.ID, region), wanted, now)
}

// steer applies the options of the user name to the request. The error is errOverride.
func (f *socksFront) steer(in *executor.Request, use *session.Use) error {
	o := &f.options
	in.Region, in.RegionStrict = o.Region, o.RegionStrict
	if o.Attempts > 0 {
		mode := f.set.overrideMode(f.account)
		if mode == retry.OverrideNone {
			return errOverride
		}
		p, err := in.Global.Overridden(retry.Override{MaxAttempts: &o.Attempts}, mode, f.set.Strategies)
		if err != nil {
			return err
		}
		in.Policy = &p
	}
	if o.Session.ID != "" {
		*use = f.server.beginSession(f.account, o.Session, in.Region, in.Started)
		in.Session = use
	}
	return nil
}
