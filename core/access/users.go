package access

import (
	"context"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// User is the account of a client.
type User struct {
	Name     string
	Password string        // a plain text, or a bcrypt or argon2id hash; "" if the user has a client certificate only
	Priority core.Priority // the highest priority that a request of the user may have; AnyPriority for no limit
}

// Users is a set of users. It is immutable. Its methods are safe for concurrent use.
type Users struct {
	digester *digester
	byName   map[digest]*Account
	dummy    *password // checked for unknown names, so that they take as long; nil if no user has a hash
}

// Account is a user who may log in.
type Account struct {
	User
	password *password // nil without a password
}

// NewUsers returns a set of users. before is the set that it replaces, or nil: the users whose password is the same
// need not compute its hash again.
func NewUsers(users []User, before *Users) *Users {
	u := &Users{byName: make(map[digest]*Account, len(users))}
	if before != nil {
		u.digester = before.digester
	} else {
		u.digester = newDigester()
	}
	for _, user := range users {
		name := u.digester.digest(user.Name)
		a := &Account{User: user}
		old := before.get(name)
		switch {
		case user.Password == "":
		case old != nil && old.Password == user.Password:
			a.password = old.password
		default:
			a.password = newPassword(user.Password, u.digester)
		}
		if u.dummy == nil && a.password != nil && a.password.hash != nil {
			u.dummy = &password{hash: a.password.hash}
		}
		u.byName[name] = a
	}
	return u
}

func (u *Users) get(name digest) *Account {
	if u == nil {
		return nil
	}
	return u.byName[name]
}

// Len returns the number of users.
func (u *Users) Len() int { return len(u.byName) }

// Login logs a client in by name and password (l.User is the name). The account is nil unless the result is Accepted;
// retryAfter is set if it is Blocked. g delays the result of a failed login.
func (u *Users) Login(
	ctx context.Context, g *Guard, l Login, password string,
) (account *Account, result Result, retryAfter time.Duration) {
	a := u.get(u.digester.digest(l.User))
	result, retryAfter = g.Do(ctx, l, func() Result {
		sum := u.digester.digest(password)
		check := u.dummy
		if a != nil && a.password != nil {
			check = a.password
		}
		if check == nil {
			return Refused
		}
		ok, decided := check.quick(sum)
		if !decided && !g.hash(ctx, l, func() { ok = check.slow(password, sum) }) {
			return Blocked
		}
		if !ok || check == u.dummy {
			return Refused
		}
		return Accepted
	})
	if result != Accepted {
		return nil, result, retryAfter
	}
	return a, Accepted, 0
}
