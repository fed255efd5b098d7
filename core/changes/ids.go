package changes

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/state"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// keepIDs is the time for which an id is kept for an entry that has left the configuration, unless another entry
// needs the id.
const keepIDs = 24 * time.Hour

// idMemory keeps the automatic ids of the entries of the configuration. It is not safe for concurrent use.
type idMemory struct {
	prints *prints
	store  *state.Store // nil if nothing is saved
	now    func() time.Time
	log    *slog.Logger

	known   map[string]remembered // by id
	failing bool                  // the last save failed
}

// remembered describes the entry that has, or had, an automatic id.
type remembered struct {
	upstream.Print
	Left int64 `json:"left,omitempty"` // when the entry left the configuration, in Unix seconds; 0 if it has not left

	saved bool // store has the id
}

// keyRecord is the name of the record in the store that holds the secret key of the fingerprints. The name of every
// other record is an id, which is never empty.
const keyRecord = ""

// openIDs reads the kept ids from the store. If there is no store, or it has no key of the fingerprints, openIDs makes
// a new key.
func openIDs(store *state.Store, now func() time.Time, log *slog.Logger) *idMemory {
	m := &idMemory{store: store, now: now, log: log, known: map[string]remembered{}}
	var key []byte
	if store != nil {
		for id, record := range store.All() {
			var r remembered
			if id == keyRecord {
				_ = json.Unmarshal(record.Value, &key) // its length is checked below
			} else if json.Unmarshal(record.Value, &r) == nil {
				r.saved = true
				m.known[id] = r
			}
		}
	}
	if len(key) != sha256.Size { // without the key, the fingerprints are useless
		key = make([]byte, sha256.Size)
		rand.Read(key)
		set := map[string]any{keyRecord: key}
		for id := range m.known {
			set[id] = nil
		}
		clear(m.known)
		m.write(set)
	}
	m.prints = newPrints(key)
	if store != nil {
		store.Recall(func() map[string]any { return m.saved(key) })
	}
	return m
}

// saved returns the values of the store.
func (m *idMemory) saved(key []byte) map[string]any {
	all := map[string]any{keyRecord: key}
	for id, r := range m.known {
		if r.saved || r.Left != 0 { // an entry that has left and is not saved could not be saved before
			all[id] = r
		}
	}
	return all
}

// write saves changes. It reports whether the changes are on the disk. Without a store, it returns false.
func (m *idMemory) write(set map[string]any) bool {
	if m.store == nil || len(set) == 0 {
		return false
	}
	err := m.store.Write(set)
	if err != nil && !m.failing && !errors.Is(err, state.ErrClosed) {
		m.log.Warn("automatic ids of proxies cannot be saved in [state] dir: after a restart, proxies with the same "+
			"host and port may have each other's ids", slog.Any("error", err))
	}
	m.failing = err != nil
	return err == nil
}

// name gives an id to each entry without one. The result states for each entry whether it got its id here.
// The parameter fromAPI has the proxies that the API has added. If an id has a record of a changed proxy, only the
// entry that was changed gets this id.
func (m *idMemory) name(entries []upstream.Spec, recorded proxyRecords, fromAPI []upstream.Spec) (automatic []bool) {
	automatic = make([]bool, len(entries))
	for i := range entries {
		automatic[i] = entries[i].ID == ""
	}
	known := make(map[string]upstream.Known, len(m.known)+len(recorded))
	reserved := map[string]struct{}{}
	for i := range fromAPI {
		s := &fromAPI[i]
		known[s.ID] = upstream.Known{Print: m.prints.address(s.Address), ExactOnly: true}
		reserved[s.ID] = struct{}{}
	}
	for id, r := range m.known {
		if _, used := reserved[id]; !used {
			known[id] = upstream.Known{Print: r.Print}
		}
	}
	for id, r := range recorded {
		if r.Base != "" && m.prints.own(r.Base) {
			known[id] = upstream.Known{Print: r.Entry}
			reserved[id] = struct{}{}
		}
	}
	upstream.Name(entries, known, m.prints.address, func(id string) bool { _, is := reserved[id]; return is })
	return automatic
}

// nameAdded returns specs, the proxies that the API adds, with ids. A proxy of the configuration that the API has
// removed gets its previous id. The parameter recorded has the ids of all recorded changes; no other proxy gets one
// of them.
func (m *idMemory) nameAdded(
	specs, configured []upstream.Spec, running *upstream.Snapshot, recorded []string,
) []upstream.Spec {
	if !slices.ContainsFunc(specs, func(s upstream.Spec) bool { return s.ID == "" }) {
		return specs
	}
	known := map[string]upstream.Known{}
	runs := func(id string) bool { u := running.Get(id); return u != nil && !u.Draining() }
	for i := range configured {
		if s := &configured[i]; !runs(s.ID) {
			known[s.ID] = upstream.Known{Print: m.prints.address(s.Address), ExactOnly: true}
		}
	}
	changed := make(map[string]struct{}, len(recorded))
	for _, id := range recorded {
		changed[id] = struct{}{}
	}
	specs = slices.Clone(specs)
	upstream.Name(specs, known, m.prints.address, func(id string) bool {
		_, configured := known[id]
		_, taken := changed[id]
		return configured || taken || runs(id)
	})
	return specs
}

// remember stores the automatic ids of entries. The parameter automatic states which entries have one.
func (m *idMemory) remember(entries []upstream.Spec, automatic []bool) {
	now := m.now().Unix()
	places, taken := make(map[string]int, len(entries)), make(map[string]struct{}, len(entries))
	for i := range entries {
		taken[entries[i].ID] = struct{}{}
		if automatic[i] {
			places[entries[i].Address.Host]++
		}
	}
	next, set := make(map[string]remembered, len(entries)), map[string]any{}
	for i := range entries {
		if !automatic[i] {
			continue
		}
		id, a := entries[i].ID, &entries[i].Address
		r, old := remembered{Print: m.prints.address(*a)}, m.known[id]
		// An entry without credentials is recognized without a fingerprint if no other entry has its host and port.
		save := places[a.Host] > 1 || a.Username != "" || a.Password != "" || old.saved
		r.saved = old.saved && old.Print == r.Print && old.Left == 0
		if save && !r.saved {
			set[id] = r
		}
		next[id] = r
	}
	for id, r := range m.known {
		if _, held := next[id]; held {
			continue
		}
		_, used := taken[id]
		switch saved := r.saved; {
		case used || r.Left != 0 && now-r.Left >= int64(keepIDs/time.Second):
			if saved {
				set[id] = nil
			}
			continue
		case r.Left == 0:
			r.Left, r.saved = now, false
			if saved {
				set[id] = r
			}
		}
		next[id] = r
	}
	m.known = next
	mark := func(saved bool) {
		for id, value := range set {
			if r, held := next[id]; held && value != nil {
				r.saved = saved
				next[id] = r
			}
		}
	}
	mark(true)
	if !m.write(set) {
		mark(false)
	}
}

// prints makes fingerprints of entries: truncated HMAC-SHA-256 (RFC 2104). Without the key, a password cannot
// be found by comparing the fingerprints of guesses. It is not safe for concurrent use.
type prints struct {
	mac  hash.Hash
	id   string // identifies the key
	text []byte // memory for a text
	last []byte // the last fingerprint
}

// keySeparator is between the id of the key and the fingerprint in proxyRecord.Base.
const keySeparator = ":"

func newPrints(key []byte) *prints {
	p := &prints{mac: hmac.New(sha256.New, key)}
	p.id = hex.EncodeToString(p.sum([]byte("key"))[:4])
	return p
}

// sum returns the fingerprint of a text. It is valid until the next call.
func (p *prints) sum(text []byte) []byte {
	p.mac.Reset()
	p.mac.Write(text)
	p.last = p.mac.Sum(p.last[:0])
	return p.last
}

// address returns the fingerprint of an address.
func (p *prints) address(a upstream.Address) upstream.Print {
	text := p.text[:0]
	for _, part := range [...]string{"address", a.Scheme, a.Host, a.Username} {
		text = append(binary.AppendUvarint(text, uint64(len(part))), part...)
	}
	print := upstream.Print{Login: binary.BigEndian.Uint64(p.sum(text))}
	print.Exact = print.Login
	if a.Password != "" {
		text = append(text, a.Password.Reveal()...)
		print.Exact = binary.BigEndian.Uint64(p.sum(text))
	}
	clear(text) // it has the password
	p.text = text
	return print
}

// own reports whether the given value of proxyRecord.Base was made with the key of p.
func (p *prints) own(base string) bool {
	id, _, found := strings.Cut(base, keySeparator)
	return found && id == p.id
}

// base returns a value of proxyRecord.Base: the id of the key, keySeparator, and the fingerprint of those fields of s
// that a record has.
func (p *prints) base(s *upstream.Spec) string {
	r := newProxyRecord(s)
	if r.Weight == 0 {
		r.Weight = 1
	}
	if len(r.Metadata) == 0 {
		r.Metadata = nil
	}
	data, err := json.Marshal(r)
	if err != nil {
		panic("a proxy that cannot be encoded: " + err.Error()) // a checked weight or cost is a finite number
	}
	return p.id + keySeparator + hex.EncodeToString(p.sum(slices.Concat([]byte("entry"), data))[:12])
}
