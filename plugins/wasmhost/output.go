package wasmhost

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/meter"
)

// Level is the severity of a plugin's log line. The numbers are those of sdk/ABI.md.
type Level int

// The levels.
const (
	LevelDebug Level = iota
	LevelInfo
	LevelWarn
	LevelError
)

// String returns the level's name: debug, info, warn or error.
func (l Level) String() string {
	if l < LevelDebug || l > LevelError {
		return "error"
	}
	return [...]string{"debug", "info", "warn", "error"}[l]
}

// MetricKind is the kind of a plugin's metric. The numbers are those of sdk/ABI.md.
type MetricKind int

// The kinds of metrics.
const (
	Counter MetricKind = iota // the sum of all values
	Gauge                     // the last value
)

// Output receives the output of a plugin during the call that writes it. It must be safe for concurrent use.
type Output interface {
	// Log receives a line of printable text of at most MaxLine bytes.
	Log(level Level, text string)
	// Metric receives a finite value. The value of a counter is not negative. The parameter name has the form
	// [a-zA-Z_][a-zA-Z0-9_]* and at most MaxName bytes. It is valid until Metric returns.
	Metric(kind MetricKind, name []byte, value float64)
}

// The longest text of a log line, and the longest name of a metric, in bytes.
const (
	MaxLine = 500
	MaxName = 64
)

// WithOutput returns a host like h whose modules write to output.
func (h *Host) WithOutput(output Output) *Host {
	other := *h
	other.output = output
	return &other
}

// outputCollector collects the text that a module writes during a call, through the WASI function fd_write and the host
// function "log".
type outputCollector struct {
	output          Output
	unfinishedLines [2][]byte // the unfinished lines of standard output and standard error
	explanations    [4]string // texts that may explain why the call failed, the best text first
	hasExplanation  bool      // explanations has a text
}

// The indices in outputCollector.explanations.
const (
	explainPanic   = iota // the first text of a panic
	explainLogged         // the last log line of level error
	explainStderr         // the first line on the standard error
	explainStdout         // the first line on the standard output
	explainNothing        // no index: the line does not explain a failure
)

var (
	// panicPattern matches a panic message of a language's runtime. goPositionPattern matches a line of a Go stack
	// trace that has a file and a line number.
	panicPattern      = regexp.MustCompile(`^(panic: |fatal error: |(thread .* )?panicked at )`)
	goPositionPattern = regexp.MustCompile(`^\t(?:.*/)?([^/\s]+\.go:\d+)`)
)

func (c *outputCollector) reset() {
	if c.hasExplanation {
		c.explanations, c.hasExplanation = [4]string{}, false
	}
}

// write splits the output of a module into lines. The descriptor is 1 (standard output) or 2 (standard error).
func (c *outputCollector) write(descriptor int, b []byte) {
	part := &c.unfinishedLines[descriptor-1]
	for len(b) > 0 {
		var line []byte
		line, ended := b, false
		line, b, ended = bytes.Cut(b, newline)
		*part = append(*part, line[:min(len(line), MaxLine+1-min(len(*part), MaxLine+1))]...)
		if ended {
			c.endLine(descriptor)
		}
	}
}

var newline = []byte{'\n'}

func (c *outputCollector) endLine(descriptor int) {
	raw := string(c.unfinishedLines[descriptor-1])
	c.unfinishedLines[descriptor-1] = c.unfinishedLines[descriptor-1][:0]
	level, source := LevelInfo, explainStdout
	if descriptor == 2 {
		level, source = LevelWarn, explainStderr
		switch at := goPositionPattern.FindStringSubmatch(raw); {
		case panicPattern.MatchString(raw):
			level, source = LevelError, explainPanic
		case at != nil && c.explanations[explainPanic] != "" && !strings.HasSuffix(c.explanations[explainPanic], ")"):
			c.explanations[explainPanic] += " (" + at[1] + ")"
		}
	}
	text := printable(raw)
	if text == "" {
		return
	}
	c.addLine(level, source, text)
}

// addLine passes one line on to the plugin's output.
func (c *outputCollector) addLine(level Level, source int, text string) {
	if source == explainLogged || source < explainNothing && c.explanations[source] == "" {
		c.explanations[source], c.hasExplanation = text, true
	}
	if c.output != nil {
		c.output.Log(level, text)
	}
}

// flush passes unfinished lines on to the plugin's output at the end of a call.
func (c *outputCollector) flush() {
	for i, part := range c.unfinishedLines {
		if len(part) > 0 {
			c.endLine(i + 1)
		}
	}
}

// explanationText returns ": " and the text that best explains why the call failed; "" for none.
func (c *outputCollector) explanationText() string {
	for _, text := range c.explanations {
		if text != "" {
			return ": " + text
		}
	}
	return ""
}

// printable returns s as one line of at most MaxLine bytes, with ? for each character that is not printable.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == '\n':
			return ' '
		case !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, strings.TrimSpace(s))
	if len(s) > MaxLine {
		s = strings.ToValidUTF8(s[:MaxLine-3], "") + "..."
	}
	return s
}

// framePattern matches a function in the stack of a wazero error: its name, or $ and its index.
var framePattern = regexp.MustCompile(`(?m)^\t\.?(\S+?)\(`)

// maxFrames is the maximum number of functions in the stack of a Fault.
const maxFrames = 10

// stackOfError returns the functions in progress when a call failed, the innermost first. The parameter imports is the
// number of functions that the original module imports.
func stackOfError(err error, imports int) (frames []string) {
	_, stack, _ := strings.Cut(err.Error(), "wasm stack trace:\n")
	for _, found := range framePattern.FindAllStringSubmatch(stack, maxFrames+1) {
		name := found[1]
		if digits, ok := strings.CutPrefix(name, "$"); ok {
			if index, err := strconv.Atoi(digits); err == nil && index >= imports+meter.AddedImports {
				name = fmt.Sprint("$", index-meter.AddedImports)
			}
		}
		frames = append(frames, printable(name))
	}
	if len(frames) > maxFrames {
		frames = append(frames[:maxFrames], "...")
	}
	return frames
}

// logFault writes the error and the stack of a failed call to the plugin's log.
func (in *instance) logFault(call string, err error) {
	if err == nil || in.host.output.output == nil {
		return
	}
	text := call + " failed: " + err.Error()
	var f *Fault
	if errors.As(err, &f) && len(f.Stack) > 0 {
		text += "; in " + strings.Join(f.Stack, ", called by ")
	}
	in.host.output.output.Log(LevelError, printable(text))
}
