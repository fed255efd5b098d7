//go:build !race

package selector

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// sync.Pool drops items at random with the race detector, so this test does not run with it.
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
