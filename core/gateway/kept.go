package gateway

import "sync"

// The sizes of the pieces of a kept body, in bytes.
const (
	smallPiece  = smallChunk // the first piece until it is full; then a larger first piece replaces it
	mediumPiece = 16 << 10   // the larger first piece of a body of unknown length
	largePiece  = 64 << 10   // maximum size of a piece
)

// piecePool is a pool of the buffers of kept bodies, in two sizes.
type piecePool struct{ small, large sync.Pool }

func newPieces() *piecePool {
	p := &piecePool{}
	p.small.New = func() any { b := make([]byte, 0, smallPiece); return &b }
	p.large.New = func() any { b := make([]byte, 0, largePiece); return &b }
	return p
}

// keptBody is a request body that is kept for repeats. Its memory grows with the bytes that have arrived, not with the
// Content-Length. A body longer than 64 KiB takes at most 1.1 times its length or, if the length is unknown, at most
// 1.25 times the bytes that have arrived. An empty keptBody holds no buffer.
type keptBody struct {
	pool   *piecePool
	pieces [][]byte
	pooled []*[]byte // for each piece, its buffer of the pool; nil for a piece that is not from the pool
	size   int64     // bytes of all pieces
	length int64     // the Content-Length; -1 if it is unknown
}

// setLength begins a body. The parameter length is the body's Content-Length, or -1 if the length is unknown.
func (k *keptBody) setLength(length int64) { k.length = length }

// append adds bytes to the body.
func (k *keptBody) append(p []byte) {
	for len(p) > 0 {
		last := len(k.pieces) - 1
		if last < 0 || len(k.pieces[last]) == cap(k.pieces[last]) {
			k.grow()
			continue
		}
		piece := k.pieces[last]
		n := copy(piece[len(piece):cap(piece)], p)
		k.pieces[last] = piece[:len(piece)+n]
		k.size += int64(n)
		p = p[n:]
	}
}

// grow makes room for at least one byte.
func (k *keptBody) grow() {
	switch {
	case len(k.pieces) == 0:
		k.addPiece(smallPiece)
	case len(k.pieces) == 1 && k.size == smallPiece:
		first, pooledBuf := k.pieces[0], k.pooled[0]
		k.pieces, k.pooled = k.pieces[:0], k.pooled[:0]
		k.addPiece(k.firstPiece())
		k.pieces[0] = append(k.pieces[0], first...)
		k.releasePiece(pooledBuf)
	case k.length >= 0:
		k.addPiece(min(k.length-k.size, largePiece))
	default:
		k.addPiece(min(max(k.size/4, smallPiece), largePiece))
	}
}

// firstPiece returns the size of the first piece of a body with more than smallPiece bytes.
func (k *keptBody) firstPiece() int64 {
	if k.length >= 0 {
		return min(k.length, largePiece)
	}
	return mediumPiece
}

// addPiece adds an empty piece.
func (k *keptBody) addPiece(size int64) {
	var pooledBuf *[]byte
	switch size {
	case smallPiece:
		pooledBuf = k.pool.small.Get().(*[]byte)
	case largePiece:
		pooledBuf = k.pool.large.Get().(*[]byte)
	default:
		k.pieces, k.pooled = append(k.pieces, make([]byte, 0, size)), append(k.pooled, nil)
		return
	}
	k.pieces, k.pooled = append(k.pieces, (*pooledBuf)[:0]), append(k.pooled, pooledBuf)
}

func (k *keptBody) releasePiece(pooledBuf *[]byte) {
	switch {
	case pooledBuf == nil:
	case cap(*pooledBuf) == smallPiece:
		k.pool.small.Put(pooledBuf)
	default:
		k.pool.large.Put(pooledBuf)
	}
}

// maxIdlePieces is the maximum number of pieces for which the slices of an idle connection's keptBody keep memory.
const maxIdlePieces = 8

// free drops the body and returns its buffers.
func (k *keptBody) free() {
	for _, pooledBuf := range k.pooled {
		k.releasePiece(pooledBuf)
	}
	clear(k.pieces)
	clear(k.pooled)
	k.pieces, k.pooled, k.size = k.pieces[:0], k.pooled[:0], 0
	if cap(k.pieces) > maxIdlePieces {
		k.pieces, k.pooled = nil, nil
	}
}
