package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Blobs are data that lie in the store beside the records, such as the modules of plugins. An exchange does not read
// them: a node reads a blob when it needs it. [Memory] and redisstore.Store implement it.
type Blobs interface {
	// WriteBlob writes a blob, which stays in the store for the time ttl. If it returns an error, ReadBlob may return
	// parts of two blobs that were written under the same name.
	WriteBlob(ctx context.Context, name string, data []byte, ttl time.Duration) error
	// ReadBlob returns a blob of at most limit bytes. The error wraps ErrNoBlob if the store has no blob with this
	// name.
	ReadBlob(ctx context.Context, name string, limit int) ([]byte, error)
	// ReadBlobs reads blobs of at most limit bytes. For each blob, it returns the results of ReadBlob. Small blobs take
	// one round trip together.
	ReadBlobs(ctx context.Context, names []string, limit int) (data [][]byte, errs []error)
	// KeepBlob makes a blob stay for the time ttl from now on. It reports whether the store has the blob.
	KeepBlob(ctx context.Context, name string, ttl time.Duration) (held bool, err error)
}

// ErrNoBlob reports that the store has no blob with the given name.
var ErrNoBlob = errors.New("the store does not have it")

// CheckBlob returns an error if a blob with the given size is larger than limit.
func CheckBlob(name string, size, limit int) error {
	if size > limit {
		return fmt.Errorf("%s in the store has %d bytes; at most %d are permitted", name, size, limit)
	}
	return nil
}

type blob struct {
	data []byte
	ends time.Time
}

// WriteBlob implements Blobs.
func (m *Memory) WriteBlob(_ context.Context, name string, data []byte, ttl time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.blobs[name] = blob{slices.Clone(data), m.now().Add(ttl)}
	}
	return m.err
}

// ReadBlob implements Blobs.
func (m *Memory) ReadBlob(_ context.Context, name string, limit int) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return nil, m.err
	}
	b := m.blobs[name]
	if !m.now().Before(b.ends) {
		return nil, fmt.Errorf("%s: %w", name, ErrNoBlob)
	}
	return slices.Clone(b.data), CheckBlob(name, len(b.data), limit)
}

// ReadBlobs implements Blobs.
func (m *Memory) ReadBlobs(ctx context.Context, names []string, limit int) (data [][]byte, errs []error) {
	for _, name := range names {
		d, err := m.ReadBlob(ctx, name, limit)
		data, errs = append(data, d), append(errs, err)
	}
	return data, errs
}

// KeepBlob implements Blobs.
func (m *Memory) KeepBlob(_ context.Context, name string, ttl time.Duration) (held bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return false, m.err
	}
	b := m.blobs[name]
	if !m.now().Before(b.ends) {
		return false, nil
	}
	m.blobs[name] = blob{b.data, m.now().Add(ttl)}
	return true, nil
}
