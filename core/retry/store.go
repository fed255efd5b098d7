package retry

import (
	"sync"
	"sync/atomic"
	"time"
)

// The sources of the current policy.
const (
	SourceFile    = "file"
	SourceRuntime = "runtime"
)

// Store holds the global policy. It is safe for concurrent use.
type Store struct {
	current atomic.Pointer[Policy]
	now     func() time.Time

	mu        sync.Mutex // guards the fields below
	file      Policy     // the policy of the last configuration
	source    string
	updatedAt time.Time
	changed   func(View) // nil for none
}

// NewStore returns a Store with the policy of the configuration.
func NewStore(file Policy, now func() time.Time) *Store {
	s := &Store{now: now, file: file, source: SourceFile, updatedAt: now()}
	s.current.Store(&file)
	return s
}

// OnChange sets a function that receives each later change of the policy. The function must return soon, and must not
// call the store.
func (s *Store) OnChange(changed func(View)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed = changed
}

// Current returns the current policy. It costs one atomic load.
func (s *Store) Current() *Policy { return s.current.Load() }

// View is the current policy with its source.
type View struct {
	Policy    Policy
	UpdatedAt time.Time // time of the last change; initially the time of NewStore
	Source    string    // SourceFile or SourceRuntime
}

// View returns the current policy and its source.
func (s *Store) View() View {
	s.mu.Lock()
	defer s.mu.Unlock()
	return View{*s.current.Load(), s.updatedAt, s.source}
}

// Put changes the policy at run time. The function change receives the current policy and returns the new policy. If it
// returns an error, the policy does not change. Requests that begin after Put use the new policy.
func (s *Store) Put(change func(Policy) (Policy, error)) (View, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next, err := change(*s.current.Load())
	if err != nil {
		return View{}, err
	}
	s.replace(next, SourceRuntime)
	return View{next, s.updatedAt, s.source}, nil
}

// Reset replaces a policy that was set at run time by the policy of the configuration. If allow returns an error for
// the policy of the configuration, the current policy does not change.
func (s *Store) Reset(allow func(Policy) error) (View, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := allow(s.file); err != nil {
		return View{}, err
	}
	s.replace(s.file, SourceFile)
	return View{*s.current.Load(), s.updatedAt, s.source}, nil
}

// ReloadFile receives the policy of a reloaded configuration. If this policy differs from the policy of the previous
// configuration, it becomes the current policy. Otherwise the current policy stays, even if it was set at run time. If
// the backoff of the current policy no longer exists (strategyExists returns false), the backoff of the configuration
// replaces it.
func (s *Store) ReloadFile(p Policy, strategyExists func(string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !p.Equal(&s.file) {
		s.file = p
		s.replace(p, SourceFile)
		return
	}
	if cur := *s.current.Load(); !strategyExists(cur.BackoffStrategy) {
		cur.BackoffStrategy = p.BackoffStrategy
		cur.computeFields()
		s.replace(cur, s.source)
	}
}

// replace sets the current policy. It makes updatedAt increase with each change. The caller holds
// mu.
func (s *Store) replace(p Policy, source string) {
	if old := s.current.Load(); old.Equal(&p) && source == s.source {
		return
	}
	s.current.Store(&p)
	s.source = source
	now := s.now()
	if !now.After(s.updatedAt) {
		now = s.updatedAt.Add(time.Microsecond)
	}
	s.updatedAt = now
	if s.changed != nil {
		s.changed(View{p, s.updatedAt, s.source})
	}
}
