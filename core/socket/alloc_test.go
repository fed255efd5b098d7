//go:build !race

package socket

import (
	"bytes"
	"io"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMoveAllocatesNothing(t *testing.T) {
	none := func() bool { return false }
	for name, p := range map[string]*Pipes{"pipe": NewPipes(nil, nil), "no pipe": NewPipes(none, nil)} {
		t.Run(name, func(t *testing.T) { moveAllocatesNothing(t, p) })
	}
}

func moveAllocatesNothing(t *testing.T, p *Pipes) {
	src, from := pair(t)
	dst, to := pair(t)
	message, got := bytes.Repeat([]byte("x"), 1000), make([]byte, 1000)
	allocs := testing.AllocsPerRun(200, func() {
		from.Write(message)
		if _, err := p.Move(dst, src, math.MaxInt64); err != nil {
			t.Error(err)
		}
		io.ReadFull(to, got)
	})
	require.Zero(t, allocs)
}
