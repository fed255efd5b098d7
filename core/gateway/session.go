package gateway

import (
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/session"
)

// wantedSession returns the session that the request asks for; its ID is "" for none.
func (r *request) wantedSession() (session.Request, error) {
	value, found, err := r.ownField("x-whirlpool-session")
	if err != nil || !found {
		return session.Request{}, err
	}
	return session.ParseField(string(value))
}

// joinSession begins the request's use of the session that it asks for, if there is one.
func (r *request) joinSession(now time.Time) {
	if r.wanted.ID == "" {
		return
	}
	user := ""
	if a := r.cache.account; a != nil {
		user = a.Name
	}
	key := session.KeyOf(user, r.wanted.ID, r.input.Region)
	r.session = r.server.Sessions.Begin(key, r.wanted, now)
	r.input.Session = &r.session
}
