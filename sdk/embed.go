// Package sdk holds the source files that `whirlpool plugin new` copies into a new plugin. The packages that
// a plugin imports are in the folders below this one.
package sdk

import "embed"

// ABI holds the file ABI.md, which describes the interface between the gateway and a plugin.
//
//go:embed ABI.md
var ABI []byte

// Go holds the files of the Go SDK for plugins. Paths are relative to this folder. The SDK imports only packages of the
// standard library and of the SDK.
//
//go:embed abi/*.go backoff/*.go configure/*.go hash/*.go internal/guest/*.go lru/*.go observe/*.go
//go:embed judge/*.go pool/*.go random/*.go scorer/*.go tolerance/*.go
//go:embed output/*.go settings/*.go
//go:embed sdktest/*.go sdktest/recording.json
var Go embed.FS

// Rust holds the files of the Rust crate in rust/.
//
//go:embed rust/Cargo.toml rust/Cargo.lock rust/cargo.sh rust/src/*.rs
var Rust embed.FS

// AssemblyScript holds the AssemblyScript SDK in assemblyscript/. Its package files pin the version of
// the compiler.
//
//go:embed assemblyscript/*.ts assemblyscript/*.json assemblyscript/asc.sh
var AssemblyScript embed.FS

// C holds the header in c/.
//
//go:embed c/whirlpool.h
var C embed.FS

// Zig holds the Zig SDK in zig/. Its script zig.sh pins the version of the compiler.
//
//go:embed zig/whirlpool.zig zig/zig.sh
var Zig embed.FS
