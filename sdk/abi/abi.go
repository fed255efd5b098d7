// Package abi declares version 1 of the contract between Whirlpool and a plugin: names of exports,
// layouts of records, sizes. The host and the Go SDK import it. It has no imports. sdk/ABI.md
// describes the same contract for all languages.
package abi

// Version is the version of the contract that these declarations describe. A module that was built for a version
// exports a function whose name is VersionPrefix followed by the version.
const Version = 1

// The exports of a module.
const (
	VersionPrefix = "whirlpool_abi_v"
	VersionExport = "whirlpool_abi_v1" // () -> ()

	Memory  = "memory"  // the linear memory
	Reserve = "reserve" // (bytes i32) -> address i32

	// A module exports exactly one of the following three functions. This function determines the kind of the module.
	Score   = "score"   // (request, candidates, scores, count i32) -> status i32
	Backoff = "backoff" // (request i32) -> seconds f64
	Judge   = "judge"   // (request, ruling i32) -> status i32

	// Optional exports.
	Initialize  = "_initialize"  // () -> (), called once, before all other functions
	Configure   = "configure"    // (pairs, count i32) -> status i32
	PoolChanged = "pool_changed" // (proxies, count i32) -> ()
	Observe     = "observe"      // (observation i32) -> ()
	Tolerance   = "tolerance"    // () -> f64
	Describe    = "describe"     // () -> address i32 of a text, after Initialize
	JudgeWants  = "judge_wants"  // () -> address i32 of a text, called after Configure; judges only
)

// The imports that a module may have from the module ImportModule.
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
	MetricCounter = iota // the value is added to the counter
	MetricGauge          // the gauge is set to the value
)

// The rulings of a judge: the values of Ruling.Kind.
const (
	RulingFine = iota
	RulingRetry
	RulingOtherProxy
	RulingBanned
	RulingTargetFault
)

// StatusOK is the status that the exports Score, Judge and Configure return on success. Any other status means that the
// call has failed.
const StatusOK = 0

// Sizes of the records in bytes. Each record starts at a multiple of Alignment.
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

// MinCandidates is the number of candidates that every scorer must accept. A module is not loaded if its export Reserve
// refuses the memory for this number of candidates.
const MinCandidates = 256

// JudgeRoom is the largest region that a judge is asked to reserve, in bytes.
const JudgeRoom = 20_480

// The limits of the parts of a response that a judge may ask for.
const (
	MaxBody       = 8 << 10 // bytes of a body's beginning
	MaxFieldNames = 32      // names of header fields
	MaxStatuses   = 32      // ranges of statuses
)
