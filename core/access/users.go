package access

import (
	"context"
	"encoding/binary"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/egress"
	"github.com/whirlpool-proxy/whirlpool/core/parts"
)

// User is the configuration of an account with which clients log in.
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
	hashes   []hash                       // hashes of the users' passwords
	nobody   *password                    // the password of unknown names; no text matches it
	share    *atomic.Pointer[parts.Share] // of SetShare, for all later sets; nil if the limits are not shared
}

// Account is a User with the data for its logins and limits.
type Account struct {
	User
	Usage       *Usage
	password    *password // nil without a password
	allow, deny egress.List
	regions     *core.Regions
}

// NewUsers returns a set of users. Their passwords and rules must have passed CheckPassword and CheckRules. The
// parameter before is the previous set, or nil. A user whose name is also in the previous set keeps the usage and, if
// the password has not changed, the digest of the verified password.
func NewUsers(users []User, before *Users) *Users {
	u := &Users{byName: make(map[digest]*Account, len(users)), nobody: &password{}}
	u.nobody.known.Store(&digest{})
	if before != nil {
		u.digester, u.share = before.digester, before.share
	} else {
		u.digester, u.share = newDigester(), &atomic.Pointer[parts.Share]{}
	}
	for _, user := range users {
		name := u.digester.digest(user.Name)
		a := &Account{User: user, Usage: &Usage{}, regions: core.NewRegions(user.Regions)}
		a.allow, _ = egress.ParseList(user.Allow)
		a.deny, _ = egress.ParseList(user.Deny)
		old := before.get(name)
		if old != nil {
			a.Usage = old.Usage
		} else if s := u.share.Load(); s != nil {
			a.Usage.shared.Store(&shared{share: *s})
		}
		switch {
		case user.Password == "":
		case old != nil && old.Password == user.Password:
			a.password = old.password
		default:
			a.password = newPassword(user.Password, u.digester)
		}
		if a.password != nil && a.password.hash != nil {
			u.hashes = append(u.hashes, a.password.hash)
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

// Named returns the account of the user with the given name; nil if there is none.
func (u *Users) Named(name string) *Account { return u.get(u.digester.digest(name)) }

// Len returns the number of users.
func (u *Users) Len() int { return len(u.byName) }

// Login checks a client's name (l.User) and password. It blocks as Guard.Do does, which delays the result of a failed
// login. The account is nil unless the result is Accepted; retryAfter is set if the result is Blocked.
func (u *Users) Login(
	ctx context.Context, g *Guard, l Login, password string,
) (account *Account, result Result, retryAfter time.Duration) {
	name, sum := u.digester.digest(l.User), u.digester.digest(password)
	a, own := u.get(name), u.nobody
	if a != nil && a.password != nil {
		own = a.password
	}
	result, retryAfter = g.Do(ctx, l, Check{
		Known: func() (ok, decided bool) {
			ok, decided = own.quick(sum)
			return ok, decided && (ok || len(u.hashes) == 0)
		},
		Slow: func() bool {
			if own.hash != nil {
				return own.slow(password, sum)
			}
			u.otherHash(name).matches(password) // so that the login takes as long as that of a user with a hash
			return false
		},
	})
	if result != Accepted {
		return nil, result, retryAfter
	}
	return a, Accepted, 0
}

// otherHash returns the hash that is computed for a failed login with a name that has no hash. Such a name is
// unknown, or its user has a password in plain text or only a certificate. The response then takes as long as for
// users with a hash. The hash is chosen by the name, so that the different costs of hashes do not show which names
// exist. At least one user must have a hash.
func (u *Users) otherHash(name digest) hash {
	return u.hashes[binary.BigEndian.Uint32(name[:])%uint32(len(u.hashes))]
}

// Certified returns the user whose name is one of the names of a verified client certificate; nil if there is no such
// user.
func (u *Users) Certified(names []string) *Account {
	for _, name := range names {
		if a := u.get(u.digester.digest(name)); a != nil {
			return a
		}
	}
	return nil
}
