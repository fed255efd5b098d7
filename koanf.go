// Package whirlpool holds the configuration file that "whirlpool config init" writes. The gateway itself is the command
// in cmd/whirlpool, and the Go library is core/engine.
package whirlpool

import _ "embed"

// Koanf is koanf.toml: every setting with its default and a comment.
//
//go:embed koanf.toml
var Koanf []byte
