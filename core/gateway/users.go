package gateway

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/http1"
)

// User may use the listener.
type User struct {
	Name     string
	Password string
}

// users checks Proxy-Authorization: Basic (RFC 7617). The zero value lets
// everybody in. It holds digests of the passwords only.
type users map[[sha256.Size]byte][sha256.Size]byte

func newUsers(list []User) users {
	u := make(users, len(list))
	for _, user := range list {
		u[sha256.Sum256([]byte(user.Name))] = sha256.Sum256([]byte(user.Password))
	}
	return u
}

// allow reports whether a Proxy-Authorization value names a user with the
// right password, in a time that does not depend on where a password differs.
func (u users) allow(value string) bool {
	if len(u) == 0 {
		return true
	}
	scheme, token, _ := strings.Cut(value, " ")
	if !http1.EqualFold([]byte(scheme), "basic") {
		return false
	}
	plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(token))
	if err != nil {
		return false
	}
	name, password, found := strings.Cut(string(plain), ":")
	if !found {
		return false
	}
	want := u[sha256.Sum256([]byte(name))]
	got := sha256.Sum256([]byte(password))
	return subtle.ConstantTimeCompare(want[:], got[:]) == 1
}
