// Package session sends the requests of a session through one proxy. A client names the session in its user name
// (ParseOptions) or in the field X-Whirlpool-Session (ParseField). A new session gets a proxy by rendezvous hashing
// (Key.Score). A Table records the proxy that has served the session.
package session
