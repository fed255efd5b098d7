// Package executor is the one attempt loop of Whirlpool, for HTTP requests and
// CONNECT tunnels alike:
//
//	[ select -> admit -> attempt -> classify -> record ]* -> answer
//
// [Do] tries a [Call] through one proxy after another until an answer is
// final, or attempts, deadline and retry budget are spent. It knows nothing of
// sockets: what an attempt is, the Call says. After Do the caller has an
// answer to relay (or the reason why there is none) and ends the exchange with
// exactly one [Executor.Finish].
package executor
