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
