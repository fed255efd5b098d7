package http1

import (
	"bytes"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// pieces is a connection whose bytes arrive in packets of any size.
type pieces struct {
	left []byte
	size func() int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.left) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.left[:min(p.size(), len(p.left))])
	p.left = p.left[n:]
	return n, nil
}

// A body has the same bytes and the same end in each way of reading: with Next, NextBuffered and Read, or directly from
// the connection (DirectlyReadable, RecordRead), in any order, and in packets of any size. The bytes after the body are
// not consumed.
func TestABodyIsTheSameForEveryWayOfReading(t *testing.T) {
	const behind = "HTTP/1.1 200 OK\r\n"
	rapid.Check(t, func(t *rapid.T) {
		size := func(most int) int { return rapid.IntRange(1, most).Draw(t, "bytes") }
		want := bytes.Repeat([]byte("0123456789"), rapid.SampledFrom([]int{0, 1, 50, 1000, 10_000}).Draw(t, "tens"))
		framing := rapid.SampledFrom([]Framing{Length, Chunked, UntilClose}).Draw(t, "framing")
		var wire []byte
		switch framing {
		case Chunked:
			for rest := want; len(rest) > 0; {
				n := min(size(5000), len(rest))
				wire = AppendChunk(wire, rest[:n])
				rest = rest[n:]
			}
			wire = append(append(wire, LastChunk...), behind...)
		case Length:
			wire = append(bytes.Clone(want), behind...)
		case UntilClose:
			wire = bytes.Clone(want)
		}
		src := &pieces{wire, func() int { return size(9000) }}
		r := NewReader(src)
		var b Body
		b.Start(r, framing, int64(len(want)))
		var got []byte
		for !b.Done() {
			if framing == Length {
				require.EqualValues(t, len(want)-len(got), b.Remaining())
			}
			switch rapid.SampledFrom([]string{"next", "ready", "read", "past", "release", "peek"}).Draw(t, "how") {
			case "peek":
				n := rapid.IntRange(0, 9000).Draw(t, "peeked")
				have := len(r.Buffered())
				p, whole := b.Peek([]byte("+"), n)
				rest := want[len(got):]
				require.Equal(t, have, len(r.Buffered()), "nothing is consumed")
				require.LessOrEqual(t, len(p)-1, min(n, have))
				require.True(t, bytes.HasPrefix(rest, p[1:]) && p[0] == '+')
				require.False(t, whole && len(p)-1 < len(rest))
				if framing == Length && have > 0 {
					require.Len(t, p[1:], min(n, have, len(rest)))
					require.Equal(t, len(p)-1 == len(rest), whole)
				}
			case "next":
				p, err := b.Next()
				require.True(t, err == nil || err == io.EOF && p == nil, "%v", err)
				got = append(got, p...)
			case "ready":
				p, err := b.NextBuffered()
				require.True(t, err == nil || err == io.EOF && p == nil, "%v", err)
				got = append(got, p...)
			case "read":
				p := make([]byte, size(3000))
				n, err := b.Read(p)
				require.True(t, err == nil && n > 0 || err == io.EOF && n == 0, "%d %v", n, err)
				got = append(got, p[:n]...)
			case "past":
				left, ok := b.DirectlyReadable()
				if !ok {
					continue
				}
				p := make([]byte, min(int64(size(3000)), left))
				n, err := src.Read(p)
				b.RecordRead(int64(n), err)
				got = append(got, p[:n]...)
			case "release":
				r.Release()
			}
		}
		require.Equal(t, string(want), string(got))
		require.Equal(t, io.EOF, b.Err())
		if framing != UntilClose {
			require.Equal(t, behind, string(append(bytes.Clone(r.Buffered()), src.left...)))
		}
	})
}
