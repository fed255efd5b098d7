package retry

import (
	"sync"
	"sync/atomic"
	"time"
)

// The sources of the policy in force.
const (
	SourceFile    = "file"
	SourceRuntime = "runtime"
)

// Store holds the global policy. It is safe for concurrent use.
type Store struct {
	current atomic.Pointer[Policy]
	now     func() time.Time

	mu        sync.Mutex
	file      Policy // what the configuration said last
	source    string
	updatedAt time.Time
}

// NewStore returns a store with the configuration's policy.
func NewStore(file Policy, now func() time.Time) *Store {
	s := &Store{now: now, file: file, source: SourceFile, updatedAt: now()}
	s.current.Store(&file)
	return s
}

// Current returns the policy in force: one atomic load.
func (s *Store) Current() *Policy { return s.current.Load() }

// View is the policy in force with its history.
type View struct {
	Policy    Policy
	UpdatedAt time.Time // of the last change; the start's at first
	Source    string    // SourceFile or SourceRuntime
}

// View returns the policy in force.
func (s *Store) View() View {
	s.mu.Lock()
	defer s.mu.Unlock()
	return View{*s.current.Load(), s.updatedAt, s.source}
}

// Put replaces the policy at run time: change gets the one in force and
// returns the next, or an error that changes nothing. Requests that begin
// after Put returns use the new policy.
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

// ReloadFile takes the configuration's policy: it comes into force if it
// differs from what the configuration said before, else a policy put at run
// time stays. One whose strategy is no more, says strategies, takes the
// configuration's instead.
func (s *Store) ReloadFile(p Policy, strategies func(string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !p.Equal(&s.file) {
		s.file = p
		s.replace(p, SourceFile)
		return
	}
	if cur := *s.current.Load(); !strategies(cur.BackoffStrategy) {
		cur.BackoffStrategy = p.BackoffStrategy
		cur.seal()
		s.replace(cur, s.source)
	}
}

// replace requires mu. updatedAt grows with each change, and stays with none.
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
}
