package gateway

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// held returns the number of bytes of memory that a body holds.
func (k *keptBody) held() (bytes int64) {
	for _, p := range k.pieces {
		bytes += int64(cap(p))
	}
	return bytes
}

// A kept body is returned unchanged. Its memory depends on the bytes that have arrived, not on the
// Content-Length.
func TestKeptBodies(t *testing.T) {
	pool := newPieces()
	rapid.Check(t, func(t *rapid.T) {
		k := keptBody{pool: pool}
		for range rapid.IntRange(1, 3).Draw(t, "bodies") {
			whole := rapid.IntRange(0, 1<<20).Draw(t, "bytes")
			known := rapid.Bool().Draw(t, "known")
			k.setLength(-1)
			if known {
				k.setLength(int64(whole))
			}
			var want []byte
			for len(want) < whole {
				n := min(rapid.IntRange(1, 100_000).Draw(t, "arriving"), whole-len(want))
				p := bytes.Repeat([]byte{byte(len(want))}, n)
				k.append(p)
				want = append(want, p...)
				require.LessOrEqual(t, k.held(), k.size+largePiece, "with %d of %d bytes", k.size, whole)
			}
			require.EqualValues(t, whole, k.size)
			require.Equal(t, string(want), string(bytes.Join(k.pieces, nil)))
			for _, p := range k.pieces {
				require.NotEmpty(t, p)
			}
			switch {
			case known && whole > smallPiece:
				require.LessOrEqual(t, float64(k.held()), 1.1*float64(whole), "with %d bytes", whole)
			case whole > mediumPiece:
				require.LessOrEqual(t, float64(k.held()), 1.3*float64(whole)+smallPiece, "with %d bytes", whole)
			}
			k.free()
			require.Zero(t, k.held())
		}
	})
}

func TestAllocOfAKeptBody(t *testing.T) {
	k, body := keptBody{pool: newPieces()}, make([]byte, smallPiece)
	require.Less(t, testing.AllocsPerRun(1000, func() {
		k.setLength(smallPiece)
		k.append(body)
		k.free()
	}), 0.5)
}

// A client that states a length and sends nothing takes no replay memory from other clients.
func TestAnnouncedBytesReserveNothing(t *testing.T) {
	r := newRig(t, nil, nil)
	c := r.ask("PUT http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000000\r\n\r\nx")
	r.eventually("a byte has arrived", func() bool { return r.replay.Used() == 1 })
	c.Close()
	r.free()
	require.Zero(t, r.replay.Used())
}
