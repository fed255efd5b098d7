package gateway

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
)

// User is the account of a client.
type User struct {
	Name     string
	Password string
	Priority core.Priority // the highest priority that a request of the user may have; AnyPriority for no limit
}

// users checks the field Proxy-Authorization: Basic (RFC 7617). It holds only digests of the names
// and passwords. The zero value accepts every client.
type users map[[sha256.Size]byte]account

// account is the data of one user.
type account struct {
	password [sha256.Size]byte
	priority core.Priority
}

func newUsers(list []User) users {
	u := make(users, len(list))
	for _, user := range list {
		u[sha256.Sum256([]byte(user.Name))] = account{sha256.Sum256([]byte(user.Password)), user.Priority}
	}
	return u
}

// allow reports whether value, a Proxy-Authorization, contains the name and password of a user. priority is
// the highest priority that a request of the user may have.
func (u users) allow(value string) (priority core.Priority, ok bool) {
	if len(u) == 0 {
		return core.AnyPriority, true
	}
	scheme, token, _ := strings.Cut(value, " ")
	if !http1.EqualFold([]byte(scheme), "basic") {
		return core.AnyPriority, false
	}
	plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(token))
	if err != nil {
		return core.AnyPriority, false
	}
	name, password, found := strings.Cut(string(plain), ":")
	if !found {
		return core.AnyPriority, false
	}
	return u.allowPassword(name, password)
}

// allowPassword reports whether a user has the given name and password. The time of the check does not depend
// on the position of a wrong character in a password. priority is the highest priority that a request of the
// user may have.
func (u users) allowPassword(name, password string) (priority core.Priority, ok bool) {
	if len(u) == 0 {
		return core.AnyPriority, true
	}
	want := u[sha256.Sum256([]byte(name))]
	got := sha256.Sum256([]byte(password))
	return want.priority, subtle.ConstantTimeCompare(want.password[:], got[:]) == 1
}
