package budget

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// The number of taken descriptors never exceeds the limit. Sources are called in their order, and only if
// necessary.
func TestFiles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := NewFiles(rapid.IntRange(1, 100).Draw(t, "files"), time.Now)
		taken := map[Purpose]int{}
		left := []int{rapid.IntRange(0, 50).Draw(t, "first"), rapid.IntRange(0, 50).Draw(t, "second")}
		for i := range left { // the sources can close only descriptors that were taken before
			left[i] = min(left[i], f.Limit()-f.Used())
			require.True(t, f.Acquire(ForClients, left[i]))
			taken[ForClients] += left[i]
		}
		source := func(i int) func() bool {
			return func() bool {
				require.True(t, i == 0 || left[0] == 0, "the first source is asked first")
				if left[i] == 0 {
					return false
				}
				left[i]--
				taken[ForClients]--
				f.Release(ForClients, 1)
				return true
			}
		}
		f.SetClosers(source(0), source(1))
		number := rapid.IntRange(1, 3)
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				n, use := number.Draw(t, "n"), rapid.SampledFrom([]Purpose{ForClients, ForOthers}).Draw(t, "use")
				f.nextClose = time.Time{}
				possible := f.Used()-left[0]-left[1]+n <= f.Limit()
				before := left[0] + left[1]
				roomy := f.Used()+n <= f.Limit()
				require.Equal(t, possible, f.Acquire(use, n))
				if possible {
					taken[use] += n
				}
				if roomy {
					require.Equal(t, before, left[0]+left[1], "nothing is closed without need")
				}
			},
			"take spare ones": func(t *rapid.T) {
				n := number.Draw(t, "n")
				spare := f.Used()+n <= f.Limit()-f.Limit()/4
				require.Equal(t, spare, f.AcquireSpare(n))
				if spare {
					taken[ForOthers] += n
				}
			},
			"give": func(t *rapid.T) {
				use := rapid.SampledFrom([]Purpose{ForClients, ForOthers}).Draw(t, "use")
				if most := taken[use] - (1-int(use))*(left[0]+left[1]); most > 0 {
					taken[use]--
					f.Release(use, 1)
				}
			},
			"": func(t *rapid.T) {
				require.Equal(t, taken[ForClients]+taken[ForOthers], f.Used())
				require.LessOrEqual(t, f.Used(), f.Limit())
				require.True(t, f.HasRoom(int64(f.Limit()-taken[ForOthers]), 0))
				require.False(t, f.HasRoom(int64(f.Limit()-taken[ForOthers]+1), 0))
			},
		})
	})
}

// After all sources have had nothing to close, none is called for a while.
func TestFailedSearchesAreLimited(t *testing.T) {
	now, asked := time.Now(), 0
	f := NewFiles(40, func() time.Time { return now })
	f.SetClosers(func() bool { asked++; return false })
	require.True(t, f.HasRoom(int64(f.Limit()-f.Limit()/10), 0.1))
	require.False(t, f.HasRoom(int64(f.Limit()-f.Limit()/10+1), 0.1))
	require.True(t, f.Acquire(ForClients, f.Limit()))
	for range 1000 {
		require.False(t, f.Acquire(ForClients, 1))
	}
	require.Equal(t, 1, asked)
	now = now.Add(closeInterval)
	require.False(t, f.Acquire(ForClients, 1))
	require.Equal(t, 2, asked)
	f.AcquireAlways(1)
	require.Equal(t, f.Limit()+1, f.Used())
}

func TestTakeWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFiles(40, time.Now)
		require.True(t, f.Acquire(ForClients, f.Limit()))
		began := time.Now()
		require.False(t, f.AcquireWait(t.Context(), ForClients, 1, 50*time.Millisecond))
		require.Equal(t, 50*time.Millisecond, time.Since(began))
		time.AfterFunc(35*time.Millisecond, func() { f.Release(ForClients, 1) })
		require.True(t, f.AcquireWait(t.Context(), ForClients, 1, 50*time.Millisecond))
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		require.False(t, f.AcquireWait(ended, ForClients, 1, time.Hour))
	})
}

func TestWithoutALimit(t *testing.T) {
	f := NewFiles(0, time.Now)
	require.Nil(t, f)
	f.SetClosers()
	f.AcquireAlways(1)
	f.Release(ForClients, 1)
	require.True(t, f.Acquire(ForOthers, 1000) && f.AcquireSpare(1000) && f.HasRoom(1000, 0))
	require.Zero(t, f.Limit()+f.Used())
}

// The limit of the process leaves room for clients that are being refused, and for descriptors that are not counted: 12
// descriptors in a process without clients.
func TestRefusals(t *testing.T) {
	require.Equal(t, maxRefusals, (*Files)(nil).Refusals())
	for limit := 64; limit < 100_000; limit += 16 {
		f := NewFiles(limit, time.Now)
		require.GreaterOrEqual(t, f.Refusals(), 4)
		require.LessOrEqual(t, f.Limit()+f.Refusals()+12, limit)
	}
}
