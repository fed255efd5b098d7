package access

import (
	"context"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/egress"
)

// User is the account of a client.
type User struct {
	Name     string
	Password string // a plain text, or a bcrypt or argon2id hash; "" if the user has a client certificate only
	Limits
}

// Users is a set of users. It is immutable. Its methods are safe for concurrent use.
type Users struct {
	digester *digester
	all      []*Account // in the order of the configuration
	byName   map[digest]*Account
	dummy    *password // verified for unknown names, so that their refusal takes as long; nil if no user has a hash
}

// Account is a user who may log in.
type Account struct {
	User
	Usage       *Usage
	password    *password // nil without a password
	allow, deny egress.List
	regions     *core.Regions
}

// NewUsers returns a set of users that have passed CheckPassword and CheckRules. before is the set that it
// replaces, or nil. The usage of users in both sets is kept, and a password that was verified is not hashed
// again.
func NewUsers(users []User, before *Users) *Users {
	u := &Users{byName: make(map[digest]*Account, len(users))}
	if before != nil {
		u.digester = before.digester
	} else {
		u.digester = newDigester()
	}
	for _, user := range users {
		name := u.digester.digest(user.Name)
		a := &Account{User: user, Usage: &Usage{}, regions: core.NewRegions(user.Regions)}
		a.allow, _ = egress.ParseList(user.Allow)
		a.deny, _ = egress.ParseList(user.Deny)
		old := before.get(name)
		if old != nil {
			a.Usage = old.Usage
		}
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
		u.all = append(u.all, a)
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
	own := a != nil && a.password != nil
	check, sum := u.dummy, u.digester.digest(password)
	if own {
		check = a.password
	}
	result, retryAfter = g.Do(ctx, l, Check{
		Known: func() (ok, decided bool) {
			if check == nil {
				return false, true
			}
			ok, decided = check.quick(sum)
			return ok && own, decided
		},
		Slow: func() bool { return check.slow(password, sum) && own },
	})
	if result != Accepted {
		return nil, result, retryAfter
	}
	return a, Accepted, 0
}

// Certified returns the user with one of the names of a verified client certificate; nil if there is none.
func (u *Users) Certified(names []string) *Account {
	for _, name := range names {
		if a := u.get(u.digester.digest(name)); a != nil {
			return a
		}
	}
	return nil
}
