//go:build !race

package selector

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// Under the race detector sync.Pool drops items at random, so this test is excluded there.
func TestAllocSelect(t *testing.T) {
	f := newFixture(t, 100, DefaultMaxCandidates)
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
