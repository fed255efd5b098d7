package evidence

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAttemptsThatWereCutShortTogether(t *testing.T) {
	const ms = time.Millisecond
	l := NewLedger(Config{})
	var book Book
	l.RecordSuccess(&Attempt{Proxy: 9, Book: &book, Target: Target{Hash: 5, Name: "a:80"}, Ended: 1010 * ms})
	require.False(t, l.RecordCutShort(1, 990*ms, 1240*ms), "there was a success meanwhile")
	require.True(t, l.RecordCutShort(1, 1020*ms, 1270*ms), "the success was before it")
	require.False(t, l.OthersCutShort(1, 1270*ms, 5), "only this proxy")
	l.RecordCutShort(2, 1100*ms, 1350*ms)
	require.False(t, l.OthersCutShort(1, 1270*ms, 5), "one other")
	require.True(t, l.OthersCutShort(1, 1270*ms, 1), "the only other")
	l.RecordCutShort(3, 1100*ms, 1350*ms)
	require.True(t, l.OthersCutShort(1, 1270*ms, 5), "two others")
	require.False(t, l.OthersCutShort(1, 1700*ms, 5), "too long ago")
	for p := range uint64(20) {
		l.RecordCutShort(100+p, 2000*ms, 2300*ms)
	}
	require.False(t, l.OthersCutShort(1, 2600*ms, 5), "the latest proxies only")
	require.True(t, l.OthersCutShort(119, 2300*ms, 5))
}
