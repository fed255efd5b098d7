//go:build !(linux && (amd64 || arm64))

package socket

type pipe struct{}

func (pipe) close() {}

// spliceOp is the state of one call of Move.
type spliceOp struct{ pipes *Pipes }

func newMove(p *Pipes) *spliceOp { return &spliceOp{p} }

func (m *spliceOp) move(dst, src *Conn, limit int64) (int64, error) {
	return m.pipes.moveBuffered(dst, src, limit)
}

// CloseUnused returns false, because this system has no pipes.
func (p *Pipes) CloseUnused() bool { return false }
