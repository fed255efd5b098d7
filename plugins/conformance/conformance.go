// Package conformance checks whether a module conforms to sdk/ABI.md. A failed check states what to change. `whirlpool
// plugin verify` and the gateway (for uploads) use it.
package conformance

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/meter"
)

// Result is the result of a check.
type Result string

// The results of a check.
const (
	Pass Result = "PASS"
	Fail Result = "FAIL"
	Skip Result = "SKIP" // the check does not apply, or was not run
)

// Check is one check with its result.
type Check struct {
	Name    string `json:"name"`
	Result  Result `json:"result"`
	Detail  string `json:"detail"`         // the behaviour of the module
	Remedy  string `json:"mend,omitempty"` // only for a failed check: what to change
	Section string `json:"section"`        // section of sdk/ABI.md
}

// Report is the result of all checks.
type Report struct {
	OK     bool          `json:"ok"` // no check failed
	Kind   wasmhost.Kind `json:"kind,omitempty"`
	Size   int           `json:"size"` // bytes
	Checks []Check       `json:"checks"`
}

// Sections of sdk/ABI.md.
const (
	secExports  = "1. Exports"
	secBuffers  = "2. Who owns which bytes"
	secRecords  = "3. Records"
	secCalls    = "4. Calls"
	secLimits   = "7. Limits"
	secFailures = "8. When a call fails"
	secVersions = "10. Versions"
)

// staticChecks are the checks that do not run the module. Their names are constants of wasmhost, such as CheckSize.
var staticChecks = []struct{ name, good, mend, section string }{
	{wasmhost.CheckSize, "", "build with optimization for size and without debug information", secLimits},
	{wasmhost.CheckParses, "a binary WebAssembly module",
		"give the whole .wasm file that the compiler wrote, and turn off the features later than WebAssembly 2.0 " +
			"(threads, exceptions, 64-bit memory)", secLimits},
	{wasmhost.CheckImports, "", "remove the code that needs this import: files, sockets, threads and the environment " +
		"do not exist in a plugin", secLimits},
	{wasmhost.CheckVersion, "1", "export an empty function whirlpool_abi_v1", secVersions},
	{wasmhost.CheckExports, "", "export what the table lists; most linkers need an option for each export " +
		"(clang: --export=NAME, Go: //go:wasmexport, Rust: #[no_mangle] extern \"C\")", secExports},
	{wasmhost.CheckSignatures, "", "change the function's parameters and result to those of the table", secExports},
	{wasmhost.CheckMemory, "", "ask the linker for less initial memory", secLimits},
	{wasmhost.CheckTable, "", "declare smaller tables, of fewer elements", secLimits},
}

// dynamicChecks are the checks that run the module, in the order in which they are made. The check "answers" and all
// later checks make calls.
var dynamicChecks = []struct {
	name, mend, section string
	kind                wasmhost.Kind // "" for all kinds
	run                 func(*checker) (string, error)
}{
	{"meters", "use WebAssembly 2.0 and nothing beyond it, and export nothing named " + meter.FuelExport, secLimits, "",
		(*checker).checkMeters},
	{"compiles", "the module is not valid: look at the compiler's and the linker's flags", secLimits, "",
		(*checker).checkCompiles},
	{"starts", "do less before the first call, and do not trap there", secCalls, "", (*checker).checkStarts},
	{"reserve", "return the address of a region of at least as many bytes, a multiple of 8, and 0 when there is no " +
		"room; it may be the same address each time", secBuffers, "", (*checker).checkReserve},
	{"answers", "", secCalls, "", (*checker).checkAnswers},
	{"reserve_large", "when memory does not grow as far, return 0", secBuffers, "", (*checker).checkReserveLarge},
	{"configure", "return 0 for settings that are well, another number for others; never trap", secCalls, "",
		(*checker).checkConfigure},
	{"score_counts", "write one score for each candidate, for any count from 1 to 256, and return 0", secCalls,
		wasmhost.Scorer, (*checker).checkCounts},
	{"score_many", "reserve more memory, or return 0 from reserve when there are too many candidates", secBuffers,
		wasmhost.Scorer, (*checker).checkMany},
	{"score_finite", "guard divisions and logarithms: every score must be a finite number", secCalls, wasmhost.Scorer,
		(*checker).checkFinite},
	{"score_deterministic", "take chance from the request's seed and time from its now, and initialize what you read",
		secRecords, wasmhost.Scorer, (*checker).checkDeterministic},
	{"score_range", "read and write only the rows and scores there are: count of each", secBuffers, wasmhost.Scorer,
		(*checker).checkOutside},
	{"backoff_range", "return a finite number of seconds, at least 0", secCalls, wasmhost.Backoff,
		(*checker).checkWaits},
	{"backoff_deterministic", "take chance from the request's random and time from its now, and initialize what you " +
		"read", secRecords, wasmhost.Backoff, (*checker).checkSameWaits},
	{"judge_rulings", "set the kind of the ruling to one of 0 to 4, with a finite rest of at least 0, and return 0",
		secCalls, wasmhost.Judge, (*checker).checkRulings},
	{"judge_deterministic", "take time from the request's now, initialize what you read, and read no more than the " +
		"lengths say", secRecords, wasmhost.Judge, (*checker).checkSameRulings},
	{"observe", "take every observation of the documented ranges without a trap", secCalls, "",
		(*checker).checkObserve},
	{"pool_changed", "take any number of proxies, with any metadata, also none; copy the strings you keep", secCalls,
		"", (*checker).checkPoolChanged},
	{"memory_stable", "free what a call allocates, or use fixed buffers: memory must not grow with the number of calls",
		secBuffers, "", (*checker).checkMemory},
	{"fuel", "do less for each candidate: a call close to its limit fails with a slightly harder one", secLimits, "",
		(*checker).checkFuel},
	{"time", "do less in a call, or in other places of memory: on a slower machine it would be ended", secLimits, "",
		(*checker).checkTime},
	{"instances", "keep nothing outside the module's own memory", secCalls, "", (*checker).checkInstances},
}

// prerequisites are the dynamic checks without which no later check can run.
var prerequisites = []string{"meters", "compiles", "starts", "reserve", "answers"}

// remedies are texts about what to change, by the reason of a plugin fault.
var remedies = map[string]string{
	wasmhost.ReasonTrap: "the call trapped: look for a bound, a division, a null or an assertion; what the " +
		"guest printed is in the error",
	wasmhost.ReasonFuel:          "the call took too many instructions: do less in it",
	wasmhost.ReasonTimeout:       "the call took too long: do less in it, or in fewer places of memory",
	wasmhost.ReasonMemory:        "reserve must find room: let memory grow",
	wasmhost.ReasonStatus:        "return 0 when the scores are given",
	wasmhost.ReasonNotFinite:     "guard divisions and logarithms: the answer must be a finite number",
	wasmhost.ReasonNegativeDelay: "return a number of seconds of at least 0",
	wasmhost.ReasonRuling:        "set the kind of the ruling to 0, 1, 2, 3 or 4",
}

// skipError is the error of a check that does not apply.
type skipError string

func (s skipError) Error() string { return string(s) }

// checker is the state of a Run.
type checker struct {
	host   *wasmhost.Host
	code   []byte
	config map[string]any
	desc   wasmhost.Description
	module *wasmhost.Module
	learns bool
}

// Run checks a module. The parameter config has the module's settings, as in [plugins.NAME.config]; nil for none.
func Run(host *wasmhost.Host, code []byte, config map[string]any) Report {
	k := &checker{host: host.OnlyCPUTime(), code: code, config: config}
	var found []wasmhost.Finding
	k.desc, found = host.Examine(code)
	r := Report{Kind: k.desc.Kind, Size: k.desc.Size}
	blocked := k.runStaticChecks(&r, found)
	calling := false
	for _, c := range dynamicChecks {
		calling = calling || c.name == "answers"
		check := Check{Name: c.name, Section: c.section}
		switch {
		case c.kind != "" && k.desc.Kind != "" && c.kind != k.desc.Kind:
			continue
		case blocked != "":
			check.Result, check.Detail = Skip, "not tried, since "+blocked+" failed"
		default:
			detail, err := c.run(k)
			check.Detail = detail
			mend := c.mend
			if f := (*wasmhost.Fault)(nil); calling && errors.As(err, &f) {
				mend = remedies[f.Reason]
			} else if !calling && isSettingsRefusal(err) {
				mend = "give settings that it takes with --config"
			}
			check.setResult(err, mend)
			if check.Result == Fail && slices.Contains(prerequisites, c.name) {
				blocked = c.name
			}
		}
		r.Checks = append(r.Checks, check)
	}
	if k.module != nil {
		k.module.Close()
	}
	r.OK = true
	for _, c := range r.Checks {
		r.OK = r.OK && c.Result != Fail
	}
	return r
}

func (c *Check) setResult(err error, mend string) {
	var s skipError
	switch {
	case err == nil:
		c.Result = Pass
	case errors.As(err, &s):
		c.Result, c.Detail = Skip, s.Error()
	default:
		c.Result, c.Detail, c.Remedy = Fail, err.Error(), mend
	}
}

// maxListedErrors is the maximum number of errors in the Detail of one check.
const maxListedErrors = 3

// runStaticChecks adds the results of the static checks to the report. It returns the name of the first check that has
// failed; "" for none.
func (ck *checker) runStaticChecks(r *Report, found []wasmhost.Finding) (failed string) {
	good := map[string]string{
		wasmhost.CheckSize:       fmt.Sprintf("%d bytes", ck.desc.Size),
		wasmhost.CheckImports:    fmt.Sprintf("%d, all allowed", len(ck.desc.Imports)),
		wasmhost.CheckExports:    fmt.Sprintf("a %s", ck.desc.Kind),
		wasmhost.CheckSignatures: "as documented",
		wasmhost.CheckMemory:     fmt.Sprintf("%d pages to begin with", ck.desc.MemoryMin),
		wasmhost.CheckTable:      "within its limit",
	}
	unread := ""
	for _, s := range staticChecks {
		c := Check{Name: s.name, Section: s.section, Result: Pass, Detail: s.good + good[s.name]}
		var wrong []string
		for _, f := range found {
			if f.Check == s.name {
				wrong = append(wrong, f.Msg)
			}
		}
		if more := len(wrong) - maxListedErrors; more > 0 {
			wrong = append(wrong[:maxListedErrors], fmt.Sprintf("and %d more, which whirlpool plugin inspect lists",
				more))
		}
		switch {
		case unread != "":
			c.Result, c.Detail = Skip, "not tried, since "+unread+" failed"
		case len(wrong) > 0:
			c.Result, c.Detail, c.Remedy = Fail, strings.Join(wrong, "; "), s.mend
			if failed == "" {
				failed = s.name
			}
			if s.name == wasmhost.CheckSize || s.name == wasmhost.CheckParses {
				unread = s.name
			}
		}
		r.Checks = append(r.Checks, c)
	}
	return failed
}

// Write writes the report as text: a line for each check and, after a failed check, what to change.
func (r Report) Write(w io.Writer) error {
	var b strings.Builder
	counts := map[Result]int{}
	for _, c := range r.Checks {
		counts[c.Result]++
		fmt.Fprintf(&b, "%s  %-21s  %s\n", c.Result, c.Name, c.Detail)
		if c.Result == Fail {
			fmt.Fprintf(&b, "      mend: %s (sdk/ABI.md, %q)\n", c.Remedy, c.Section)
		}
	}
	verdict := "the module follows the ABI"
	if !r.OK {
		verdict = "the module does not follow the ABI"
	}
	fmt.Fprintf(&b, "%s: %d passed, %d failed, %d skipped\n", verdict, counts[Pass], counts[Fail], counts[Skip])
	_, err := io.WriteString(w, b.String())
	return err
}
