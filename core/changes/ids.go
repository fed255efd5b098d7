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

// idRetention is the time for which an entry that has left the configuration keeps its id, unless another entry needs
// it.
const idRetention = 24 * time.Hour

// automaticIDs keeps the automatic ids of the entries of the configuration. It is not safe for concurrent use.
type automaticIDs struct {
	fingerprinter *fingerprinter
	store         *state.Store // nil if nothing is saved
	now           func() time.Time
	log           *slog.Logger

	entries    map[string]idEntry // by id
	saveFailed bool               // the last save failed
}

// idEntry describes the entry that has, or had, an automatic id. It is small, because a long list has many of them.
type idEntry struct {
	upstream.Fingerprint
	LeftAt uint32 `json:"left,omitempty"` // in Unix seconds: when the entry left the configuration; 0 if it is there

	isSaved      bool // store has the id
	isConfigured bool // only within saveIDs: the configuration has the entry
}

// keyRecord is the name of the record with the secret key of the fingerprints. All other records have an id as their
// name, and no id is empty.
const keyRecord = ""

// openIDs reads the ids and the key of the fingerprints from the store. If there is no store, or no key in it, openIDs
// makes a new key.
func openIDs(store *state.Store, now func() time.Time, log *slog.Logger) *automaticIDs {
	m := &automaticIDs{store: store, now: now, log: log, entries: map[string]idEntry{}}
	var key []byte
	if store != nil {
		for id, record := range store.All() {
			var r idEntry
			if id == keyRecord {
				_ = json.Unmarshal(record.Value, &key) // its length is checked below
			} else if json.Unmarshal(record.Value, &r) == nil {
				r.isSaved = true
				m.entries[id] = r
			}
		}
	}
	if len(key) != sha256.Size { // without the key, the fingerprints are useless
		key = make([]byte, sha256.Size)
		rand.Read(key)
		set := map[string]any{keyRecord: key}
		for id := range m.entries {
			set[id] = nil
		}
		clear(m.entries)
		m.saveValues(set)
	}
	m.fingerprinter = newFingerprinter(key)
	if store != nil {
		store.DropRecords(func() map[string]any { return m.storedValues(key) })
	}
	return m
}

func (ids *automaticIDs) storedValues(key []byte) map[string]any {
	all := map[string]any{keyRecord: key}
	for id, r := range ids.entries {
		if r.isSaved || r.LeftAt != 0 { // with LeftAt, but not isSaved, an earlier save has failed
			all[id] = r
		}
	}
	return all
}

// saveValues saves changes, and reports whether they are on the disk.
func (ids *automaticIDs) saveValues(set map[string]any) bool {
	if ids.store == nil || len(set) == 0 {
		return false
	}
	err := ids.store.Write(set)
	if err != nil && !ids.saveFailed && !errors.Is(err, state.ErrClosed) {
		ids.log.Warn("automatic ids of proxies cannot be saved in [state] dir: after a restart, proxies with the same "+
			"host and port may have each other's ids", slog.Any("error", err))
	}
	ids.saveFailed = err != nil
	return err == nil
}

// assignIDs gives an id to each entry that has none. It returns for each entry whether assignIDs has given it the id.
// If there is a record of a changed proxy, the proxy's id is given only to the entry of this proxy. The ids of proxies
// that the API has added (fromAPI) are given to no other proxy.
func (ids *automaticIDs) assignIDs(entries []upstream.Spec, recorded proxyRecords,
	fromAPI []upstream.Spec) (isAutomatic []bool) {
	isAutomatic = make([]bool, len(entries))
	for i := range entries {
		isAutomatic[i] = entries[i].ID == ""
	}
	reserved := map[string]upstream.KnownProxy{} // these replace the elements of ids.entries with the same ids
	for i := range fromAPI {
		s := &fromAPI[i]
		reserved[s.ID] = upstream.KnownProxy{
			Fingerprint: ids.fingerprinter.addressFingerprint(s.Address), ExactOnly: true,
		}
	}
	for id, r := range recorded {
		if r.EntryFingerprint != "" && ids.fingerprinter.hasKeyOf(r.EntryFingerprint) {
			reserved[id] = upstream.KnownProxy{Fingerprint: r.AddressFingerprint}
		}
	}
	isReservedID := func(id string) bool { _, is := reserved[id]; return is }
	known := upstream.KnownProxies{
		Get: func(id string) (upstream.KnownProxy, bool) {
			if k, is := reserved[id]; is {
				return k, true
			}
			r, is := ids.entries[id]
			return upstream.KnownProxy{Fingerprint: r.Fingerprint}, is
		},
		IDs: func(yield func(id string) bool) {
			for id := range reserved {
				if !yield(id) {
					return
				}
			}
			for id := range ids.entries {
				if !isReservedID(id) && !yield(id) {
					return
				}
			}
		},
	}
	upstream.NameSpecs(entries, known, ids.fingerprinter.addressFingerprint, isReservedID)
	return isAutomatic
}

// assignAddedIDs returns the proxies that the API adds, with ids. If the API has removed a configured proxy and adds it
// again, the proxy gets its previous id. Apart from that, ids in recorded changes are not used again.
func (ids *automaticIDs) assignAddedIDs(
	specs, configured []upstream.Spec, running *upstream.Snapshot, recorded []string,
) []upstream.Spec {
	if !slices.ContainsFunc(specs, func(s upstream.Spec) bool { return s.ID == "" }) {
		return specs
	}
	known := map[string]upstream.KnownProxy{}
	isRunning := func(id string) bool { u := running.Get(id); return u != nil && !u.Draining() }
	for i := range configured {
		if s := &configured[i]; !isRunning(s.ID) {
			known[s.ID] = upstream.KnownProxy{
				Fingerprint: ids.fingerprinter.addressFingerprint(s.Address), ExactOnly: true,
			}
		}
	}
	changed := make(map[string]struct{}, len(recorded))
	for _, id := range recorded {
		changed[id] = struct{}{}
	}
	specs = slices.Clone(specs)
	upstream.NameSpecs(specs, upstream.KnownMap(known), ids.fingerprinter.addressFingerprint, func(id string) bool {
		_, configured := known[id]
		_, taken := changed[id]
		return configured || taken || isRunning(id)
	})
	return specs
}

// saveIDs stores the automatic ids of entries: the id of entries[i] is automatic if isAutomatic[i] is set.
func (ids *automaticIDs) saveIDs(entries []upstream.Spec, isAutomatic []bool) {
	now := uint32(ids.now().Unix())
	entriesOfBase, ownIDs := make(map[string]int32, len(entries)), map[string]struct{}{}
	for i := range entries {
		if isAutomatic[i] {
			entriesOfBase[entries[i].IDBase()]++
		} else {
			ownIDs[entries[i].ID] = struct{}{}
		}
	}
	set := map[string]any{}
	for i := range entries {
		if !isAutomatic[i] {
			continue
		}
		id, a := entries[i].ID, &entries[i].Address
		r, previous := idEntry{Fingerprint: ids.fingerprinter.addressFingerprint(*a)}, ids.entries[id]
		// A fingerprint is needed only if an entry has credentials, or if several entries have the same host and port
		// (or the same id by a template).
		save := entriesOfBase[entries[i].IDBase()] > 1 || a.Username != "" || a.Password != "" || previous.isSaved
		r.isSaved = previous.isSaved && previous.Fingerprint == r.Fingerprint && previous.LeftAt == 0
		if save && !r.isSaved {
			set[id] = r
		}
		r.isConfigured = true
		ids.entries[id] = r
	}
	for id, r := range ids.entries {
		_, isReassigned := ownIDs[id]
		switch saved := r.isSaved; {
		case r.isConfigured:
			r.isConfigured = false
		case isReassigned || r.LeftAt != 0 && int64(now)-int64(r.LeftAt) >= int64(idRetention/time.Second):
			if saved {
				set[id] = nil
			}
			delete(ids.entries, id)
			continue
		case r.LeftAt == 0:
			r.LeftAt, r.isSaved = now, false
			if saved {
				set[id] = r
			}
		}
		ids.entries[id] = r
	}
	setSaved := func(saved bool) {
		for id, value := range set {
			if r, exists := ids.entries[id]; exists && value != nil {
				r.isSaved = saved
				ids.entries[id] = r
			}
		}
	}
	setSaved(true)
	if !ids.saveValues(set) {
		setSaved(false)
	}
}

// fingerprinter makes fingerprints of entries: truncated HMAC-SHA-256 (RFC 2104), so that without the key no password
// can be guessed from them. It is not safe for concurrent use.
type fingerprinter struct {
	mac        hash.Hash
	keyID      string // identifies the key
	textBuffer []byte // memory for a text
	sumBuffer  []byte // the last fingerprint
}

// keySeparator is between the id of the key and the fingerprint in proxyRecord.EntryFingerprint.
const keySeparator = ":"

func newFingerprinter(key []byte) *fingerprinter {
	p := &fingerprinter{mac: hmac.New(sha256.New, key)}
	p.keyID = hex.EncodeToString(p.sum([]byte("key"))[:4])
	return p
}

// sum returns the fingerprint of a text. It is valid until the next call.
func (f *fingerprinter) sum(text []byte) []byte {
	f.mac.Reset()
	f.mac.Write(text)
	f.sumBuffer = f.mac.Sum(f.sumBuffer[:0])
	return f.sumBuffer
}

func (f *fingerprinter) addressFingerprint(a upstream.Address) upstream.Fingerprint {
	text := f.textBuffer[:0]
	for _, part := range [...]string{"address", a.Scheme, a.Host, a.Username} {
		text = append(binary.AppendUvarint(text, uint64(len(part))), part...)
	}
	print := upstream.Fingerprint{Login: binary.BigEndian.Uint64(f.sum(text))}
	print.Exact = print.Login
	if a.Password != "" {
		text = append(text, a.Password.Reveal()...)
		print.Exact = binary.BigEndian.Uint64(f.sum(text))
	}
	clear(text) // it has the password
	f.textBuffer = text
	return print
}

// hasKeyOf reports whether a value of proxyRecord.EntryFingerprint was made with the key of f.
func (f *fingerprinter) hasKeyOf(base string) bool {
	id, _, found := strings.Cut(base, keySeparator)
	return found && id == f.keyID
}

// entryFingerprint returns a value of proxyRecord.EntryFingerprint: the id of the key, keySeparator, and the
// fingerprint of those fields of s that a record has.
func (f *fingerprinter) entryFingerprint(s *upstream.Spec) string {
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
	return f.keyID + keySeparator + hex.EncodeToString(f.sum(slices.Concat([]byte("entry"), data))[:12])
}
