package state

import (
	"encoding/json"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Record is a value of a Store.
type Record struct {
	At    time.Time       `json:"at"` // when the record was written; after DropRecords, when the file was replaced
	Value json.RawMessage `json:"value"`
}

// Store holds values by key in a journal. It is safe for concurrent use.
type Store struct {
	now func() time.Time

	mu            sync.Mutex // guards the fields below
	journal       *Journal
	records       map[string]Record // nil after DropRecords
	currentValues func() map[string]any
}

// batch is an entry of the journal. It has changes that are made together: all of them or none.
type batch struct {
	Set    map[string]Record `json:"set,omitempty"`
	Delete []string          `json:"delete,omitempty"`
}

func (b *batch) apply(records map[string]Record) {
	maps.Copy(records, b.Set)
	for _, key := range b.Delete {
		delete(records, key)
	}
}

// OpenStore opens or creates the file with the given name in dir. If the file is damaged, it has been copied
// (Damage.CopyPath).
func OpenStore(fsys FS, dir, name string, now func() time.Time) (s *Store, damage Damage, err error) {
	s = &Store{now: now, records: map[string]Record{}}
	s.journal, damage, err = OpenJournal(fsys, filepath.Join(dir, name), now(), func(entry []byte) error {
		var b batch
		if err := json.Unmarshal(entry, &b); err != nil {
			return err
		}
		b.apply(s.records)
		return nil
	})
	if err != nil {
		return nil, damage, err
	}
	if damage.Exists() {
		if err := s.replace(s.records); err != nil {
			s.journal.Close()
			return nil, damage, err
		}
	}
	return s, damage, nil
}

// Path returns the path of the file.
func (s *Store) Path() string { return s.journal.path }

// DropRecords frees the memory of the records. From now on, Get and All return nothing. When Write must write a new
// file, it calls currentValues. This function returns all values, including the changes of this Write.
func (s *Store) DropRecords(currentValues func() map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records, s.currentValues = nil, currentValues
}

// Get returns the record of a key.
func (s *Store) Get(key string) (r Record, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok = s.records[key]
	return r, ok
}

// All returns a copy of all records by key.
func (s *Store) All() map[string]Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.records)
}

// Write makes all changes or, if it returns an error, none. A value of nil deletes its key. When Write returns
// nil, the changes are on the disk.
func (s *Store) Write(changes map[string]any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.currentValues != nil && s.journal.NeedsReplace() {
		b, err := s.batch(s.currentValues())
		if err != nil {
			return err
		}
		return s.replace(b.Set)
	}
	b, err := s.batch(changes)
	if err != nil {
		return err
	}
	if s.journal.NeedsReplace() { // even if nothing changes, because a failed write may still reach the disk
		next := maps.Clone(s.records)
		b.apply(next)
		if err := s.replace(next); err != nil {
			return err
		}
		s.records = next
		return nil
	}
	if len(b.Set) == 0 && len(b.Delete) == 0 {
		return nil
	}
	entry, err := json.Marshal(b)
	if err != nil {
		return err
	}
	if err := s.journal.Append(oneEntry(entry)); err != nil {
		return err
	}
	if s.currentValues == nil {
		b.apply(s.records)
	}
	return nil
}

// The method batch converts changes to an entry of the journal.
func (s *Store) batch(changes map[string]any) (b batch, err error) {
	b.Set = map[string]Record{}
	for _, key := range slices.Sorted(maps.Keys(changes)) {
		_, exists := s.records[key]
		if value := changes[key]; value != nil {
			data, err := json.Marshal(value)
			if err != nil {
				return b, err
			}
			b.Set[key] = Record{s.now().UTC(), data}
		} else if exists || s.currentValues != nil {
			b.Delete = append(b.Delete, key)
		}
	}
	return b, nil
}

// replace writes the records to a new file. The caller holds mu.
func (s *Store) replace(records map[string]Record) error {
	return s.journal.Replace(func(yield func([]byte, error) bool) {
		for _, key := range slices.Sorted(maps.Keys(records)) {
			if !yield(json.Marshal(batch{Set: map[string]Record{key: records[key]}})) {
				return
			}
		}
	})
}

// Close closes the file. Later calls of Write return ErrClosed.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.journal.Close()
}
