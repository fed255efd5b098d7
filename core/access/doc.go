// Package access decides who may use a listener, and how much. It has the users of the gateway with their passwords
// and limits, and delays the responses to failed logins. A client that guesses passwords can try few passwords and
// costs little processor time. There are three reasons: the response to a failed login is delayed, only few
// goroutines compute hashes at the same time, and a password that has been verified is not hashed again.
package access
