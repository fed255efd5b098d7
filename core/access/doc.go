// Package access decides who may use a listener, and how much. It has the users of the gateway with their passwords and
// limits. It limits the number of passwords that a client can guess, and the processor time for them: responses to
// failed logins are delayed, only few goroutines compute hashes at the same time, and a verified password is not hashed
// again.
package access
