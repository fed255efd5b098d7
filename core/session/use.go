package session

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"time"
)

// Use is the use of a session by one request. It is not safe for concurrent use.
type Use struct {
	table  *Table
	key    Key
	ttl    time.Duration
	strict bool
	bound  binding // binding at the beginning of the request; zero if the session had no proxy

	proxy      string // id of the proxy of the last attempt
	generation uint32 // number of times that the session has moved to another proxy or exit, up to the last attempt
	exits      bool   // the proxy of the last attempt has a different exit address for each generation
}

// Begin begins the use of a session at the time now. The parameter key is the key of the session in r.
func (t *Table) Begin(key Key, r Request, now time.Time) Use {
	b, _ := t.find(key, now)
	return Use{table: t, key: key, ttl: r.TTL, strict: r.Strict, bound: b, generation: b.generation}
}

// Bound returns the id of the session's proxy when the request began; "" if the session had no proxy.
func (u *Use) Bound() string { return u.bound.proxy }

// Strict reports whether the session has a proxy and must use no other proxy.
func (u *Use) Strict() bool { return u.strict && u.bound.proxy != "" }

// Score returns Key.Score for the key of the session.
func (u *Use) Score(proxy uint64, weight float64) float64 { return u.key.Score(proxy, weight) }

// Attempt records an attempt through a proxy. The parameter number is 0 for the first attempt of the request. If the
// session is not strict, each retry moves the session. A first attempt through a proxy other than the session's proxy
// moves the session, too. Each move increases the generation by one. The parameter exits is true if the proxy has a
// different exit address for each generation; the proxy's vendor chooses the exit by the Token.
func (u *Use) Attempt(number int, proxy string, exits bool) {
	u.proxy, u.generation, u.exits = proxy, u.bound.generation, exits
	switch {
	case u.Strict():
	case number > 0:
		u.generation += uint32(number)
	case u.bound.proxy != "" && u.bound.proxy != proxy:
		u.generation++
	}
}

// Served calls Bind and returns the result of Moved.
func (u *Use) Served(now time.Time) (movedFrom string) {
	u.Bind(now)
	return u.Moved()
}

// Bind binds the session to the proxy of the last attempt, which has served the request. It sets the end of the
// session to the time now plus the TTL.
func (u *Use) Bind(now time.Time) {
	b := binding{key: u.key, proxy: u.proxy, generation: u.generation, until: now.Add(u.ttl)}
	u.table.bind(b, u.strict, now)
}

// Moved returns the id of the session's previous proxy if the last attempt moves the session to another proxy, or to
// another exit of the same proxy; otherwise "".
func (u *Use) Moved() (from string) {
	if u.bound.proxy == u.proxy && !(u.exits && u.bound.generation != u.generation) {
		return ""
	}
	return u.bound.proxy
}

// Token returns a name of the session for a proxy vendor. It has 13 lower case letters and digits. It is a hash that
// shows neither the user nor the id of the session. The token changes only when the session moves. A restart of the
// gateway does not change it.
func (u *Use) Token() string {
	b := binary.BigEndian.AppendUint32(append(make([]byte, 0, len(u.key)+4), u.key[:]...), u.generation)
	sum := sha256.Sum256(b)
	return tokens.EncodeToString(sum[:8])
}

// tokens uses only lower case letters, because some vendors ignore the case.
var tokens = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)
