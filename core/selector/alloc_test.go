//go:build !race

package selector

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// Not under the race detector, where sync.Pool loses things on purpose.
func TestAChoiceCostsNoAllocation(t *testing.T) {
	f := start(t, 100, DefaultMaxCandidates)
	q := Query{}
	assert.Zero(t, testing.AllocsPerRun(1000, func() {
		q.Reset()
		q.Idempotent = true
		lease, err := f.s.Select(&q, failing{}, f.now)
		if err != nil {
			t.Fatal(err)
		}
		lease.Release()
	}))
}
