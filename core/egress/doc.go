// Package egress decides where requests may go, by the name, the address and the port of their target.
//
// A [List] holds rules in the notation of the configuration. A [Policy] is the section [egress]: a list of denied
// targets, a list of allowed targets, and two built-in rules. A List and a Policy are immutable and safe for
// concurrent use. This package opens no connection and resolves no name.
package egress
