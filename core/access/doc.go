// Package access decides who may use a listener, and how much. It has the users of the gateway with their passwords and
// limits. It limits the number of passwords that a client can guess, and the processor time for passwords. Responses to
// failed logins are delayed. Only few goroutines compute hashes at the same time. A verified password is not hashed
// again.
package access
