package eventstream

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// texts returns the data of events.
func texts(events []Event) []string {
	out := []string{}
	for _, e := range events {
		out = append(out, string(e.Data))
	}
	return out
}

// now returns a context that has ended, so that Next returns the events so far.
func now() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func TestReadersGetTheEventsAfterAnID(t *testing.T) {
	var s Stream
	for i := 1; i <= MaxEvents+10; i++ {
		s.Publish([]string{"even", "odd"}[i%2], []byte(fmt.Sprint(i)))
	}
	last := uint64(MaxEvents + 10)
	for name, c := range map[string]struct {
		after, lost uint64
		wanted      string
		first       string
		count       int
	}{
		"new ones only":      {after: last},
		"the last two":       {after: last - 2, first: "1009", count: 2},
		"of one type":        {after: last - 3, wanted: "even", first: "1008", count: 2},
		"the oldest":         {after: 10, first: "11", count: MaxEvents},
		"some are lost":      {after: 3, lost: 7, first: "11", count: MaxEvents},
		"all":                {after: 0, lost: 10, first: "11", count: MaxEvents},
		"of another process": {after: last + 1, first: "11", count: MaxEvents},
	} {
		t.Run(name, func(t *testing.T) {
			var wanted func(string) bool
			if c.wanted != "" {
				wanted = func(eventType string) bool { return eventType == c.wanted }
			}
			r, lost, err := s.Subscribe(c.after, wanted)
			require.NoError(t, err)
			defer r.Close()
			require.Equal(t, c.lost, lost)
			events, at, err := r.Next(now())
			require.Equal(t, last, at)
			require.Len(t, events, c.count)
			if c.count == 0 {
				require.ErrorIs(t, err, context.Canceled)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.first, string(events[0].Data))
		})
	}
}

func TestAReaderWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Stream
		r, _, err := s.Subscribe(0, func(eventType string) bool { return eventType == "a" })
		require.NoError(t, err)
		begun := time.Now()
		time.AfterFunc(time.Second, func() { s.Publish("b", nil) })
		time.AfterFunc(2*time.Second, func() { s.Publish("a", []byte("x")) })
		time.AfterFunc(3*time.Second, s.Close)
		ctx, cancel := context.WithTimeout(context.Background(), 1500*time.Millisecond)
		defer cancel()
		_, at, err := r.Next(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.EqualValues(t, 1, at, "an event of another type moves the position")
		events, at, err := r.Next(context.Background())
		require.NoError(t, err)
		require.Equal(t, []string{"x"}, texts(events))
		require.EqualValues(t, 2, at)
		require.Equal(t, 2*time.Second, time.Since(begun))
		_, _, err = r.Next(context.Background())
		require.ErrorIs(t, err, ErrClosed)
		require.Equal(t, 3*time.Second, time.Since(begun))
		_, _, err = s.Subscribe(0, nil)
		require.ErrorIs(t, err, ErrClosed)
	})
}

func TestBounds(t *testing.T) {
	var s Stream
	slow, _, err := s.Subscribe(0, nil)
	require.NoError(t, err)
	for range 20 {
		s.Publish("big", make([]byte, MaxBytes/10))
	}
	require.Len(t, s.events, 10)
	_, _, err = slow.Next(now())
	require.ErrorIs(t, err, ErrSlow)
	lost, events, at, err := slow.SkipLost()
	require.NoError(t, err)
	require.EqualValues(t, 10, lost)
	require.EqualValues(t, 20, at)
	require.Len(t, events, 10)
	for range MaxReaders - 1 {
		_, _, err = s.Subscribe(0, nil)
		require.NoError(t, err)
	}
	_, _, err = s.Subscribe(0, nil)
	require.ErrorIs(t, err, ErrTooManyReaders)
	slow.Close()
	_, _, err = s.Subscribe(0, nil)
	require.NoError(t, err, "there is a place again")
}

// A reader that skips what it has missed is not too slow again if an event is published meanwhile.
func TestSkipLostWhileEventsArePublished(t *testing.T) {
	const published = 20 * MaxEvents
	var s Stream
	r, _, err := s.Subscribe(0, nil)
	require.NoError(t, err)
	go func() {
		for range published {
			s.Publish("x", nil)
		}
	}()
	for seen := 0; seen < published; {
		lost, events, _, err := r.SkipLost()
		require.NoError(t, err)
		seen += int(lost) + len(events)
	}
}

// Sampled events go to the readers that want them, after the kept ones, and are not kept.
func TestSampledEvents(t *testing.T) {
	var s Stream
	s.SendSampled("a", 1, []byte("nobody"))
	require.False(t, s.HasSamplers())
	plain, _, err := s.Subscribe(0, nil)
	require.NoError(t, err)
	require.False(t, s.HasSamplers())
	odd, _, err := s.Subscribe(0, nil)
	require.NoError(t, err)
	odd.SetSampler(func(eventType string, request uint64) bool { return eventType == "a" && request%2 == 1 })
	require.True(t, s.HasSamplers())
	for request := range uint64(4) {
		require.Equal(t, request%2 == 1, s.IsWanted("a", request))
		require.False(t, s.IsWanted("b", request))
		s.SendSampled("a", request, []byte(fmt.Sprint(request)))
		s.SendSampled("b", request, []byte("hidden"))
	}
	s.Publish("kept", []byte("k"))
	events, at, err := odd.Next(now())
	require.NoError(t, err)
	require.EqualValues(t, 1, at)
	require.Equal(t, []string{"k", "1", "3"}, texts(events))
	require.EqualValues(t, []uint64{1, 0, 0}, []uint64{events[0].ID, events[1].ID, events[2].ID})
	events, _, err = plain.Next(now())
	require.NoError(t, err)
	require.Equal(t, []string{"k"}, texts(events))

	other, _, err := s.Subscribe(0, nil)
	require.NoError(t, err)
	other.SetSampler(func(string, uint64) bool { return true })
	odd.Close()
	odd.Close() // has no effect
	require.True(t, s.HasSamplers())
	other.Close()
	require.False(t, s.HasSamplers())
}

// A reader with too many sampled events, or too many bytes of them, is dropped. Other readers get these events.
func TestReadersThatAreTooSlowForSampledEvents(t *testing.T) {
	for name, c := range map[string]struct{ events, size int }{
		"events": {MaxSampled, 1}, "bytes": {4, MaxBytes / 4},
	} {
		t.Run(name, func(t *testing.T) {
			var s Stream
			var readers [2]*Reader
			for i := range readers {
				r, _, err := s.Subscribe(0, nil)
				require.NoError(t, err)
				r.SetSampler(func(string, uint64) bool { return true })
				readers[i] = r
			}
			slow, fast := readers[0], readers[1]
			for range c.events {
				s.SendSampled("a", 1, make([]byte, c.size))
			}
			events, _, err := fast.Next(now())
			require.NoError(t, err)
			require.Len(t, events, c.events)
			s.SendSampled("a", 1, []byte("x"))
			events, _, err = fast.Next(now())
			require.NoError(t, err)
			require.Equal(t, []string{"x"}, texts(events))
			_, _, err = slow.Next(now())
			require.ErrorIs(t, err, ErrSlow)
			s.SendSampled("a", 1, []byte("y"))
			require.Empty(t, slow.sampled, "nothing is kept for it")
		})
	}
}

// Each reader gets each event once and in order, or is dropped.
func TestReadersAgainstAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s Stream
		var all []string // by id-1
		type cursor struct {
			r    *Reader
			next int // index into all
		}
		var readers []*cursor
		t.Repeat(map[string]func(*rapid.T){
			"publish": func(t *rapid.T) {
				for range rapid.SampledFrom([]int{1, 2, MaxEvents - 1, MaxEvents}).Draw(t, "events") {
					all = append(all, fmt.Sprint(len(all)))
					s.Publish("x", []byte(all[len(all)-1]))
				}
			},
			"subscribe": func(t *rapid.T) {
				after := rapid.IntRange(0, len(all)).Draw(t, "after")
				r, lost, err := s.Subscribe(uint64(after), nil)
				if len(readers) == MaxReaders {
					require.ErrorIs(t, err, ErrTooManyReaders)
					return
				}
				require.NoError(t, err)
				oldest := max(len(all)-MaxEvents, 0)
				require.EqualValues(t, max(oldest-after, 0), lost)
				readers = append(readers, &cursor{r, max(after, oldest)})
			},
			"read": func(t *rapid.T) {
				if len(readers) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(readers)-1).Draw(t, "reader")
				c := readers[i]
				events, at, err := c.r.Next(now())
				switch {
				case c.next < len(all)-MaxEvents:
					require.ErrorIs(t, err, ErrSlow)
					c.r.Close()
					readers = append(readers[:i], readers[i+1:]...)
					return
				case c.next == len(all):
					require.ErrorIs(t, err, context.Canceled)
				default:
					require.NoError(t, err)
					require.Equal(t, all[c.next:], texts(events))
				}
				require.EqualValues(t, len(all), at)
				c.next = len(all)
			},
		})
	})
}

// Several goroutines publish and read at the same time, for the race detector.
func TestConcurrentUse(t *testing.T) {
	var s Stream
	var wg sync.WaitGroup
	const each = MaxEvents / 4 // of 4 publishers: no reader is too slow
	for range 4 {
		wg.Go(func() {
			for range each {
				s.Publish("x", []byte("y"))
			}
		})
	}
	for range 4 {
		r, _, err := s.Subscribe(0, nil)
		require.NoError(t, err)
		wg.Go(func() {
			defer r.Close()
			for want := uint64(1); want <= 4*each; {
				events, _, err := r.Next(context.Background())
				if err != nil {
					t.Error(err)
					return
				}
				for _, e := range events {
					if e.ID != want {
						t.Errorf("event %d, not %d", e.ID, want)
					}
					want++
				}
			}
		})
	}
	wg.Wait()
	require.Empty(t, s.readers)
}
