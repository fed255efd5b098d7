// Package abi is version 1 of the contract between Whirlpool and a plugin:
// export names, record layouts, sizes. Host and Go guests both import it; it
// imports nothing. sdk/ABI.md says the same in words, for every language.
package abi

// Version is the version of the contract these declarations describe. A
// module states the version it was built for by exporting a function named
// VersionPrefix followed by the number.
const Version = 1

// What a module exports.
const (
	VersionPrefix = "whirlpool_abi_v"
	VersionExport = "whirlpool_abi_v1" // () -> ()

	Memory  = "memory"  // the linear memory
	Reserve = "reserve" // (bytes i32) -> address i32

	// A module exports one of these three; which one is its kind.
	Score   = "score"   // (request, candidates, scores, count i32) -> status i32
	Backoff = "backoff" // (request i32) -> seconds f64
	Judge   = "judge"   // (request, ruling i32) -> status i32

	// Optional.
	Initialize  = "_initialize"  // () -> (), once before anything else
	Configure   = "configure"    // (pairs, count i32) -> status i32
	PoolChanged = "pool_changed" // (proxies, count i32) -> ()
	Observe     = "observe"      // (observation i32) -> ()
	Tolerance   = "tolerance"    // () -> f64
	Describe    = "describe"     // () -> address i32 of a text, after Initialize
	JudgeWants  = "judge_wants"  // () -> address i32 of a text, after Configure; of judges
)

// What a module may import from the module ImportModule.
const (
	ImportModule = "whirlpool"

	Log    = "log"    // (level, address, length i32) -> ()
	Metric = "metric" // (kind, name, length i32, value f64) -> ()
)

// The levels of Log.
const (
	LevelDebug = iota
	LevelInfo
	LevelWarn
	LevelError
)

// The kinds of Metric.
const (
	MetricCounter = iota // the value is added
	MetricGauge          // the value is set
)

// What a judge rules: the values of Ruling.Kind.
const (
	RulingFine = iota
	RulingRetry
	RulingOtherProxy
	RulingBanned
	RulingTargetFault
)

// StatusOK is what Score, Judge and Configure return when all went well. Every other
// status means: no answer.
const StatusOK = 0

// Sizes of the records in bytes. Each starts at a multiple of Alignment.
const (
	Alignment = 8

	RankRequestSize    = 10 * 8
	CandidateSize      = 16 * 8
	ScoreSize          = 8
	BackoffRequestSize = 15 * 8
	ObservationSize    = 8 * 8
	JudgeRequestSize   = 12 * 8
	RulingSize         = 2 * 8
	PairSize           = 24
	ProxySize          = 56
)

// MinCandidates is how many candidates a scorer must be able to take: a
// module whose Reserve refuses room for so many is not loaded.
const MinCandidates = 256

// JudgeRoom is the largest region that a judge is asked to reserve, in bytes.
const JudgeRoom = 20_480

// What a judge may ask for.
const (
	MaxBody       = 8 << 10 // bytes of a body's beginning
	MaxFieldNames = 32      // names of header fields
	MaxStatuses   = 32      // statuses, or ranges of them
)
