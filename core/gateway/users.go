package gateway

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/http1"
)

// User is the account of a client.
type User struct {
	Name     string
	Password string
}

// users checks the field Proxy-Authorization: Basic (RFC 7617). It holds only digests of the names
// and passwords. The zero value accepts every client.
type users map[[sha256.Size]byte][sha256.Size]byte

func newUsers(list []User) users {
	u := make(users, len(list))
	for _, user := range list {
		u[sha256.Sum256([]byte(user.Name))] = sha256.Sum256([]byte(user.Password))
	}
	return u
}

// allow reports whether value, a Proxy-Authorization, has the name and password of a user. The time
// it takes does not depend on the position at which a password differs.
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
