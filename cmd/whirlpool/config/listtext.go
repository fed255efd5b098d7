package config

import (
	"bytes"
	"io"
	"os"
)

// listText is the text of a proxy list, in pieces. Read frees the pieces that it has read, so that a long text is not
// in memory beside all of its proxies.
type listText struct {
	pieces  [][]byte
	size    int  // size of the whole text in bytes
	lines   int  // number of line ends
	lastEnd int  // index behind the last line end; 0 if there is no line end
	blank   bool // the text has only white space
}

// pieceSize is the size of the pieces of a file.
const pieceSize = 64 << 10

func newListText(data []byte) *listText {
	t := &listText{blank: true}
	t.add(data)
	return t
}

func (t *listText) add(piece []byte) {
	if end := bytes.LastIndexByte(piece, '\n') + 1; end > 0 {
		t.lastEnd = t.size + end
	}
	t.pieces = append(t.pieces, piece)
	t.size += len(piece)
	t.lines += bytes.Count(piece, []byte("\n"))
	t.blank = t.blank && len(bytes.TrimSpace(piece)) == 0
}

// cutLastLine removes the text behind the last line end.
func (t *listText) cutLastLine() {
	for t.size > t.lastEnd {
		last := len(t.pieces) - 1
		n := min(t.size-t.lastEnd, len(t.pieces[last]))
		t.pieces[last] = t.pieces[last][:len(t.pieces[last])-n]
		if t.size -= n; len(t.pieces[last]) == 0 {
			t.pieces = t.pieces[:last]
		}
	}
}

// Read implements io.Reader.
func (t *listText) Read(p []byte) (n int, err error) {
	for len(t.pieces) > 0 && n < len(p) {
		copied := copy(p[n:], t.pieces[0])
		n += copied
		if t.pieces[0] = t.pieces[0][copied:]; len(t.pieces[0]) == 0 {
			t.pieces[0], t.pieces = nil, t.pieces[1:]
		}
	}
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// readListText reads a file of at most limit bytes.
func readListText(path string, limit int64) (*listText, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && info.Size() > limit {
		err = errTooLong(path, info.Size(), limit)
	}
	if err != nil {
		return nil, err
	}
	text := newListText(nil)
	for in := io.LimitReader(f, limit+1); err == nil; {
		piece := make([]byte, pieceSize)
		var n int
		n, err = io.ReadFull(in, piece)
		text.add(piece[:n])
	}
	switch {
	case err != io.EOF && err != io.ErrUnexpectedEOF:
		return nil, err
	case int64(text.size) > limit:
		return nil, errLongerThan(path, limit)
	}
	return text, nil
}
