package session

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"time"
)

// Handle records how one request uses a session. It is not safe for concurrent use.
type Handle struct {
	table        *Table
	key          Key
	ttl          time.Duration
	strict       bool
	startBinding binding // binding at the beginning of the request; zero if the session had no proxy

	proxy        string // id of the proxy of the last attempt
	generation   uint32 // number of times that the session has moved to another proxy or exit, up to the last attempt
	variableExit bool   // the proxy of the last attempt has a different exit address for each generation
}

// Begin returns a Handle for a request that asks for the session r. The parameter key is the key of this session.
func (t *Table) Begin(key Key, r Request, now time.Time) Handle {
	b, _ := t.find(key, now)
	return Handle{table: t, key: key, ttl: r.TTL, strict: r.Strict, startBinding: b, generation: b.generation}
}

// StartProxy returns the id of the session's proxy when the request began; "" if the session had no proxy.
func (h *Handle) StartProxy() string { return h.startBinding.proxy }

// IsStrict reports whether the session has a proxy and must use no other proxy.
func (h *Handle) IsStrict() bool { return h.strict && h.startBinding.proxy != "" }

// Score returns Key.Score for the key of the session.
func (h *Handle) Score(proxy uint64, weight float64) float64 { return h.key.Score(proxy, weight) }

// RecordAttempt records an attempt through a proxy. A request's first attempt has the number 0. The session moves at
// each retry, and at a first attempt through a proxy that is not the session's; it never moves if IsStrict returns
// true. Each move increases the generation by one. If variableExit is set, the vendor of the proxy chooses the exit
// address by the Token, so that each generation has a different exit address.
func (h *Handle) RecordAttempt(number int, proxy string, variableExit bool) {
	h.proxy, h.generation, h.variableExit = proxy, h.startBinding.generation, variableExit
	switch {
	case h.IsStrict():
	case number > 0:
		h.generation += uint32(number)
	case h.startBinding.proxy != "" && h.startBinding.proxy != proxy:
		h.generation++
	}
}

// BindServed calls Bind and returns the result of MovedFrom.
func (h *Handle) BindServed(now time.Time) (movedFrom string) {
	h.Bind(now)
	return h.MovedFrom()
}

// Bind records that the proxy of the last attempt has served the session, and sets the end of the session.
func (h *Handle) Bind(now time.Time) {
	b := binding{key: h.key, proxy: h.proxy, generation: h.generation, end: now.Add(h.ttl)}
	h.table.bind(b, h.strict, now)
}

// MovedFrom returns the id of the session's previous proxy if the last attempt moves the session to another proxy or
// exit; otherwise "".
func (h *Handle) MovedFrom() (from string) {
	if h.startBinding.proxy == h.proxy && !(h.variableExit && h.startBinding.generation != h.generation) {
		return ""
	}
	return h.startBinding.proxy
}

// Token returns a name of the session for a proxy vendor: a hash of 13 lower case letters and digits, which reveals
// neither the user nor the id of the session. It changes only when the session moves, and not at a restart.
func (h *Handle) Token() string {
	b := binary.BigEndian.AppendUint32(append(make([]byte, 0, len(h.key)+4), h.key[:]...), h.generation)
	sum := sha256.Sum256(b)
	return tokenEncoding.EncodeToString(sum[:8])
}

// tokenEncoding uses only lower case letters, because some vendors ignore the case.
var tokenEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)
