package config

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

func TestListText(t *testing.T) {
	path := filepath.Join(t.TempDir(), "list.txt")
	for _, content := range []string{"", " \n", "a\nb", "a\nb\n", strings.Repeat("192.0.2.1:80\n", 20_000) + "rest",
		strings.Repeat("x", pieceSize), strings.Repeat("x", pieceSize-1) + "\n" + strings.Repeat("y", 2*pieceSize)} {
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		read := func() *listText {
			text, err := readListText(path, maxList)
			require.NoError(t, err)
			return text
		}
		text := read()
		require.Equal(t, len(content), text.size)
		require.Equal(t, strings.Count(content, "\n"), text.lines)
		require.Equal(t, strings.LastIndexByte(content, '\n')+1, text.lastEnd)
		require.Equal(t, strings.TrimSpace(content) == "", text.blank)
		require.NoError(t, iotest.TestReader(text, []byte(content)))
		require.Empty(t, text.pieces, "they are freed")

		text = read()
		text.cutLastLine()
		got, err := io.ReadAll(text)
		require.NoError(t, err)
		require.Equal(t, content[:strings.LastIndexByte(content, '\n')+1], string(got))
	}
	_, err := readListText(path, 10)
	require.ErrorContains(t, err, "at most 10 are allowed")
	got, err := io.ReadAll(newListText([]byte("a\nb")))
	require.NoError(t, err)
	require.True(t, bytes.Equal([]byte("a\nb"), got))
}
