// Package minutes counts attempts by their cause and status, with latencies and bytes, by the minute: for each proxy,
// for each target host, and for all attempts together.
//
// The current minute of a Series is a set of atomic counters, so that counting takes no lock and allocates nothing.
// Once the minute is over, it becomes a row of a block of encoded bytes. A busy minute of one proxy takes about 8
// bytes, whatever the number of attempts.
//
// Counts are exact. Latencies are kept as the median and the 95th percentile of each minute, with a relative error of
// at most 13 %.
package minutes
