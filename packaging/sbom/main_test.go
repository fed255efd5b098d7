package main

import (
	"bytes"
	"encoding/json"
	"os"
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"
)

// The bill of a binary is the same each time. (The binary of a test names no modules; integration/ has one that does.)
func TestTheBillOfABinaryIsReproducible(t *testing.T) {
	binary, err := os.Executable()
	require.NoError(t, err)
	var first, second bytes.Buffer
	require.NoError(t, write(&first, binary, "1.2.3", "1700000000"))
	require.NoError(t, write(&second, binary, "1.2.3", "1700000000"))
	require.Equal(t, first.String(), second.String())
	var b bom
	require.NoError(t, json.Unmarshal(first.Bytes(), &b))
	require.Equal(t, "2023-11-14T22:13:20Z", b.Metadata.Timestamp)
	require.Equal(t, "1.2.3", b.Metadata.Component.Version)
	require.Len(t, b.Metadata.Component.Hashes[0].Content, 64)
	require.Regexp(t, `^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`, b.SerialNumber)
	names := map[string]component{}
	for _, c := range b.Components {
		names[c.Name] = c
	}
	require.Contains(t, names, "std")
	require.Regexp(t, `^pkg:golang/std@1\.`, names["std"].PURL)
	require.Len(t, b.Dependencies[0].DependsOn, len(b.Components))
	require.Equal(t, component{Type: "library", Ref: "pkg:golang/a.test/b@v1.0.0%2Bx", Name: "a.test/b",
		Version: "v1.0.0+x", PURL: "pkg:golang/a.test/b@v1.0.0%2Bx", Properties: []property{{"go:sum", "h1:="}}},
		moduleOf("library", &debug.Module{Path: "a.test/b", Version: "v1.0.0+x", Sum: "h1:="}))
	require.Error(t, write(&first, binary, "1", "now"))
	require.Error(t, write(&first, "main.go", "1", ""))
}
