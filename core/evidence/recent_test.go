package evidence

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestATargetThatHasJustServedAnother(t *testing.T) {
	l := NewLedger(Config{})
	var a, b Book
	target := Target{Hash: 77 << 20, Name: "a.test:80"}
	at := func(proxy uint64, book *Book, s float64) *Attempt {
		when := time.Duration(s * float64(time.Second))
		return &Attempt{Proxy: proxy, Book: book, Target: target, Ended: when, Began: when, Threshold: 5,
			Window: time.Minute, ClosedPeers: 1, PoolSize: 2}
	}
	l.RecordSuccess(at(1, &a, 10))
	require.True(t, l.JustSucceededThroughOther(target, 2, 11*time.Second))
	require.False(t, l.JustSucceededThroughOther(target, 1, 11*time.Second), "by itself")
	require.False(t, l.JustSucceededThroughOther(target, 2, 13*time.Second), "too long ago")
	require.False(t, l.JustSucceededThroughOther(Target{Hash: 78 << 20}, 2, 11*time.Second), "another target")
	require.True(t, l.RecordFailure(at(2, &b, 11)).OtherJustSucceeded)
	l.RecordSuccess(at(1, &a, 11.5))
	l.RecordSuccess(at(2, &b, 11.5))
	require.True(t, l.JustSucceededThroughOther(target, 1, 12*time.Second),
		"the success of one proxy does not hide that of another")
	require.True(t, l.JustSucceededThroughOther(target, 2, 12*time.Second))
	l.RecordSuccess(at(2, &b, 14))
	require.False(t, l.RecordFailure(at(2, &b, 14.1)).OtherJustSucceeded, "by itself")
}

// A target that has just served others serves none now if attempts through three proxies have failed since, or through
// all of a smaller pool.
func TestATargetThatServesNoneNow(t *testing.T) {
	const slow = 700 * time.Millisecond // three attempts at this pace span more than maxRecentSuccessAge
	for _, x := range []struct {
		name    string
		closed  int
		pace    time.Duration
		bans    bool
		noise   float64
		proxies []uint64
		want    []bool // NoneServesNow of each failure
	}{
		{"three proxies", 7, time.Millisecond, false, 0, []uint64{1, 2, 3, 4}, []bool{false, false, true, true}},
		{"one of them twice", 7, time.Millisecond, false, 0, []uint64{1, 2, 1, 3}, []bool{false, false, false, true}},
		{"pool of two", 1, time.Millisecond, false, 0, []uint64{1, 2, 1}, []bool{false, false, true}},
		{"a target that bans proxies", 7, time.Millisecond, true, 0, []uint64{1, 2, 3}, []bool{false, false, false}},
		{"too slow", 7, slow, false, 0, []uint64{1, 2, 3, 4, 5}, []bool{false, false, true, false, false}},
		{"a noisy pool", 7, time.Millisecond, false, 0.3, []uint64{1, 2, 3, 4, 5, 6, 7, 8},
			[]bool{false, false, false, false, false, false, false, true}},
	} {
		t.Run(x.name, func(t *testing.T) {
			l := NewLedger(Config{})
			l.addNoise(x.noise*10_000, 0, (1-x.noise)*10_000)
			books := map[uint64]*Book{}
			attempt := func(proxy uint64, at time.Duration) *Attempt {
				if books[proxy] == nil {
					books[proxy] = &Book{}
				}
				return &Attempt{Proxy: proxy, Book: books[proxy], Target: Target{Hash: 77 << 20, Name: "a.test:80"},
					Ended: at, Began: at, Threshold: 5, Window: time.Minute, ClosedPeers: x.closed,
					PoolSize: x.closed + 1, TargetBans: x.bans}
			}
			now := time.Minute
			for _, proxy := range []uint64{8, 9} {
				l.RecordSuccess(attempt(proxy, now))
			}
			for i, proxy := range x.proxies {
				now += x.pace
				require.Equal(t, x.want[i], l.RecordFailure(attempt(proxy, now)).NoneServesNow, i)
			}
			l.RecordSuccess(attempt(9, now))
			require.False(t, l.RecordFailure(attempt(1, now)).NoneServesNow, "it has served another proxy since")
		})
	}
}
