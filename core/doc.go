// Package core is Whirlpool's vocabulary: the words every other package uses
// for one request's way through the gateway, and the interfaces a plugin
// fills. It holds values and small interfaces, no behaviour but the hash that host
// and guests share, and imports the standard library only.
//
//	gateway -> executor -> [ selector -> breaker -> transport -> verdict.Judge -> record ]* -> answer
//
// Arrows point to core, never out of it; imports_test.go keeps it so.
package core
