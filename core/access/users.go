package access

import (
	"context"
	"encoding/binary"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/egress"
	"github.com/whirlpool-proxy/whirlpool/core/share"
)

// User is the configuration of an account with which clients log in.
type User struct {
	Name     string
	Password string // a plain text, or a bcrypt or argon2id hash; "" if the user has a client certificate only
	Limits
}

// Users is a set of users. It is immutable. Its methods are safe for concurrent use.
type Users struct {
	digester         *digester
	all              []*Account // in the order of the configuration
	accountsByDigest map[digest]*Account
	hashes           []hash                               // hashes of the users' passwords
	unknownPassword  *password                            // the password of unknown names; no text matches it
	initialShares    *atomic.Pointer[share.InitialShares] // for all later sets; nil if the limits are not shared
	active           *activeUsers                         // of all sets
	days             *share.DayClock                      // of all sets
}

// Account is a User with the data for its logins and limits.
type Account struct {
	User
	Usage       *Usage
	password    *password // nil without a password
	allow, deny egress.List
	regions     *core.Regions
}

// NewUsers returns a set of users, whose passwords and rules must have passed CheckPassword and CheckRules. A user who
// was also in the previous set (nil for none) keeps the usage. If the password has not changed, the user also keeps the
// digest of the verified password.
func NewUsers(users []User, previous *Users) *Users {
	u := &Users{accountsByDigest: make(map[digest]*Account, len(users)), unknownPassword: &password{}}
	u.unknownPassword.verifiedDigest.Store(&digest{})
	if previous != nil {
		u.digester, u.initialShares = previous.digester, previous.initialShares
		u.active, u.days = previous.active, previous.days
	} else {
		u.digester, u.initialShares, u.active = newDigester(), &atomic.Pointer[share.InitialShares]{}, &activeUsers{}
		u.days = &share.DayClock{}
	}
	for _, user := range users {
		name := u.digester.digest(user.Name)
		a := &Account{User: user, regions: core.NewRegions(user.Regions)}
		a.Usage = &Usage{name: user.Name, active: u.active, days: u.days}
		a.allow, _ = egress.ParseList(user.Allow)
		a.deny, _ = egress.ParseList(user.Deny)
		old := previous.byDigest(name)
		if old != nil {
			a.Usage = old.Usage
		} else if s := u.initialShares.Load(); s != nil {
			a.Usage.shared.Store(&sharedLimits{initialShares: *s})
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
		u.accountsByDigest[name] = a
	}
	return u
}

func (u *Users) byDigest(name digest) *Account {
	if u == nil {
		return nil
	}
	return u.accountsByDigest[name]
}

// ByName returns the account of the user with the name; nil for none.
func (u *Users) ByName(name string) *Account { return u.byDigest(u.digester.digest(name)) }

// Len returns the number of users.
func (u *Users) Len() int { return len(u.accountsByDigest) }

// Login checks a client's name (l.User) and password. Like Guard.CheckLogin, it delays the result of a failed login. If
// the result is not Accepted, the account is nil. If the result is Blocked, retryAfter is set.
func (u *Users) Login(
	ctx context.Context, g *Guard, l Login, password string,
) (account *Account, result Result, retryAfter time.Duration) {
	name, sum := u.digester.digest(l.User), u.digester.digest(password)
	a, userPassword := u.byDigest(name), u.unknownPassword
	if a != nil && a.password != nil {
		userPassword = a.password
	}
	result, retryAfter = g.CheckLogin(ctx, l, Check{
		WithoutHash: func() (ok, decided bool) {
			ok, decided = userPassword.checkDigest(sum)
			return ok, decided && (ok || len(u.hashes) == 0)
		},
		WithHash: func() bool {
			if userPassword.hash != nil {
				return userPassword.checkHash(password, sum)
			}
			u.decoyHash(name).matches(password) // so that the login takes as long as the login of a user with a hash
			return false
		},
	})
	if result != Accepted {
		return nil, result, retryAfter
	}
	return a, Accepted, 0
}

// decoyHash returns the hash of some user, which the gateway computes for a login whose name is unknown or has no hash.
// So the login takes as long as the login of a user with a hash. The same name always gets the same hash: otherwise the
// varying times would show which names exist. At least one user must have a hash.
func (u *Users) decoyHash(name digest) hash {
	return u.hashes[binary.BigEndian.Uint32(name[:])%uint32(len(u.hashes))]
}

// ByCertificate returns the user with one of the names of a verified client certificate; nil for none.
func (u *Users) ByCertificate(names []string) *Account {
	for _, name := range names {
		if a := u.byDigest(u.digester.digest(name)); a != nil {
			return a
		}
	}
	return nil
}
