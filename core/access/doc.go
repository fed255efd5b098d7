// Package access decides who may use a listener, and how much of it. It has the users of the gateway with
// their passwords and limits, and delays the responses to failed logins. A client that guesses passwords has
// few tries and costs little processor time: the response to a failed login is delayed, hashes are computed
// by few goroutines at a time, and a password that has been verified is not hashed again.
package access
