// Package egress decides where requests may go, by the name, the address and the port of their target.
//
// A [List] holds rules in the notation of the configuration. A [Policy] is the section [egress]: a list of
// denied targets, a list of allowed ones, and two built-in rules. Both are immutable and safe for concurrent
// use. Nothing here opens a connection or resolves a name.
package egress
