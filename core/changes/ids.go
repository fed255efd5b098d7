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

// idMemory is the time for which an id is kept for an entry that has left the configuration, unless another entry
// needs the id.
const idMemory = 24 * time.Hour

// ids keeps the automatic ids of the entries of the configuration. It is not safe for concurrent use.
type ids struct {
	prints prints
	store  *state.Store // nil if nothing is saved
	now    func() time.Time
	log    *slog.Logger

	known   map[string]remembered // by id
	failing bool                  // the last save failed
}

// remembered describes the entry that has, or had, an automatic id.
type remembered struct {
	upstream.Print
	Left int64 `json:"left,omitempty"` // when the entry left the configuration, in Unix seconds; 0 if it has not

	saved bool // store has the id
}

// keyRecord is the key of the record that holds the key of the fingerprints. Ids are not empty.
const keyRecord = ""

// openIDs reads the kept ids from store. It makes a new key of fingerprints if store has none or is nil.
func openIDs(store *state.Store, now func() time.Time, log *slog.Logger) *ids {
	m := &ids{store: store, now: now, log: log, known: map[string]remembered{}}
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
	if len(key) != sha256.Size { // the fingerprints were made with another key
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
	return m
}

// write saves changes. It reports whether they are on the disk; without a store they never are.
func (m *ids) write(set map[string]any) bool {
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

// name returns entries with an id for each. running are the proxies of the pool. The ids of recorded changes are
// given only to the entries that were changed.
func (m *ids) name(entries []upstream.Spec, recorded proxyRecords, running []upstream.Spec) []upstream.Spec {
	known := make(map[string]upstream.Known, len(m.known)+len(recorded))
	reserved := map[string]struct{}{}
	for i := range running {
		if s := &running[i]; s.Source == upstream.SourceAPI {
			known[s.ID] = upstream.Known{Print: m.prints.address(s.Address), ExactOnly: true}
			reserved[s.ID] = struct{}{}
		}
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
	return upstream.Name(entries, known, m.prints.address, reserved)
}

// nameAdded returns specs, which the API adds, with ids. A proxy of the configuration that the API has removed gets
// its previous id. recorded are the ids of recorded changes.
func (m *ids) nameAdded(specs, configured, running []upstream.Spec, recorded []string) []upstream.Spec {
	if !slices.ContainsFunc(specs, func(s upstream.Spec) bool { return s.ID == "" }) {
		return specs
	}
	known, reserved := map[string]upstream.Known{}, make(map[string]struct{}, len(running))
	for i := range running {
		reserved[running[i].ID] = struct{}{}
	}
	for i := range configured {
		s := &configured[i]
		if _, runs := reserved[s.ID]; !runs {
			known[s.ID] = upstream.Known{Print: m.prints.address(s.Address), ExactOnly: true}
			reserved[s.ID] = struct{}{}
		}
	}
	for _, id := range recorded {
		reserved[id] = struct{}{}
	}
	return upstream.Name(specs, known, m.prints.address, reserved)
}

// remember stores the ids of entries. unnamed are the same entries as they were before they got
// ids.
func (m *ids) remember(entries, unnamed []upstream.Spec) {
	now := m.now().Unix()
	places, taken := make(map[string]int, len(entries)), make(map[string]struct{}, len(entries))
	for i := range entries {
		taken[entries[i].ID] = struct{}{}
		if unnamed[i].ID == "" {
			places[entries[i].Address.Host]++
		}
	}
	next, set := make(map[string]remembered, len(entries)), map[string]any{}
	for i := range entries {
		if unnamed[i].ID != "" {
			continue
		}
		id, a := entries[i].ID, &entries[i].Address
		r, old := remembered{Print: m.prints.address(*a)}, m.known[id]
		// An entry without credentials that alone has its host and port is recognized without a
		// fingerprint.
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
		case used || r.Left != 0 && now-r.Left >= int64(idMemory/time.Second):
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
	if m.write(set) {
		for id, value := range set {
			if r, held := next[id]; held && value != nil {
				r.saved = true
				next[id] = r
			}
		}
	}
}

// prints makes fingerprints of entries: truncated HMAC-SHA-256 (RFC 2104). Without the key, a password cannot be
// found by comparing the fingerprints of guesses. It is not safe for concurrent use.
type prints struct {
	mac hash.Hash
	id  string // of the key
}

// keySeparator is between the id of the key and the fingerprint in proxyRecord.Base.
const keySeparator = ":"

func newPrints(key []byte) prints {
	p := prints{mac: hmac.New(sha256.New, key)}
	p.id = hex.EncodeToString(p.sum([]byte("key"))[:4])
	return p
}

func (p prints) sum(text []byte) []byte {
	p.mac.Reset()
	p.mac.Write(text)
	return p.mac.Sum(nil)
}

// address returns the fingerprint of an address.
func (p prints) address(a upstream.Address) upstream.Print {
	var text []byte
	for _, part := range []string{"address", a.Scheme, a.Host, a.Username} {
		text = append(binary.AppendUvarint(text, uint64(len(part))), part...)
	}
	print := upstream.Print{Login: binary.BigEndian.Uint64(p.sum(text))}
	print.Exact = print.Login
	if a.Password != "" {
		print.Exact = binary.BigEndian.Uint64(p.sum(append(text, a.Password.Reveal()...)))
	}
	return print
}

// own reports whether a base was made with this key.
func (p prints) own(base string) bool {
	id, _, found := strings.Cut(base, keySeparator)
	return found && id == p.id
}

// base returns the fingerprint of the fields that a record has, after the id of the key.
func (p prints) base(s *upstream.Spec) string {
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
