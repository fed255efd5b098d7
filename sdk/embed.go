// Package sdk holds the sources a new plugin starts from, so that `whirlpool
// plugin new` can write them out. What a plugin imports is in the folders
// beside it.
package sdk

import "embed"

// Go is the Go SDK by path below this folder. It needs the standard library
// and itself only, as module github.com/whirlpool-proxy/whirlpool/sdk/...
//
//go:embed abi/*.go backoff/*.go configure/*.go hash/*.go internal/guest/*.go observe/*.go pool/*.go scorer/*.go tolerance/*.go
//go:embed sdktest/*.go sdktest/recording.json
var Go embed.FS
