// Package session assigns the requests of a session to one proxy. A client names the session in its user name
// (ParseOptions) or in the field X-Whirlpool-Session (ParseField). A new session gets a proxy by rendezvous hashing
// (Score); a Table records the proxy that has served the session.
package session
