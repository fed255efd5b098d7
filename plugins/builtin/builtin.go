// Package builtin holds the modules of the built-in plugins. Their source code is in src/. `make builtins` compiles
// the source code to the same modules, byte for byte.
package builtin

import (
	"embed"
	"strings"
)

//go:embed *.wasm
var files embed.FS

// Modules returns the built-in plugins by name.
func Modules() map[string][]byte {
	entries, err := files.ReadDir(".")
	if err != nil {
		panic(err) // cannot fail, because the file is embedded
	}
	out := make(map[string][]byte, len(entries))
	for _, e := range entries {
		code, err := files.ReadFile(e.Name())
		if err != nil {
			panic(err)
		}
		out[strings.TrimSuffix(e.Name(), ".wasm")] = code
	}
	return out
}
