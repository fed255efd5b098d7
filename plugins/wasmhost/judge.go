package wasmhost

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
)

// DefaultRest is the duration of a host ban if the ruling states none. A stated duration is limited to at least
// MinRest and at most MaxRest.
const (
	DefaultRest = 10 * time.Minute
	MinRest     = time.Second
	MaxRest     = 24 * time.Hour
)

// ExcerptSpec returns the parts of a response that a judge needs. It returns nil if the module is not a judge or is not
// ready.
func (m *Module) ExcerptSpec() *core.ExcerptSpec {
	if m.desc.Kind != Judge || !m.ready.Load() {
		return nil
	}
	return m.excerptSpec
}

// Rule returns a judge's ruling on a response. It returns the same errors as Score.
func (m *Module) Rule(r *core.JudgeRequest, e *core.Excerpt) (core.Ruling, error) {
	if m.desc.Kind != Judge {
		return core.Ruling{}, ErrNotReady
	}
	in, err := m.acquire(m.limits.Wait)
	if err != nil {
		return core.Ruling{}, err
	}
	err = in.passPool()
	var ruling core.Ruling
	if err == nil {
		ruling, err = in.callJudge(r, e)
	}
	in.logFault(abi.Judge, err)
	m.release(in, err)
	return ruling, err
}

// The offsets of the ruling and of the header fields in the region of a judge's call. The region holds, in this order:
// the request, the ruling, the header fields (an abi.Pair of name and value for each), the body, and the texts of the
// names and values.
const (
	rulingOffset = abi.JudgeRequestSize
	pairsOffset  = rulingOffset + abi.RulingSize
)

// aligned rounds n up to a multiple of abi.Alignment.
func aligned(n int) int { return (n + abi.Alignment - 1) &^ (abi.Alignment - 1) }

// textSize returns the number of bytes that a text of n bytes takes in the region: the text, a zero byte, and the gap
// up to the next multiple of abi.Alignment.
func textSize(n int) int { return aligned(n + 1) }

func (in *instance) callJudge(r *core.JudgeRequest, e *core.Excerpt) (core.Ruling, error) {
	in.setCallBudget(0)
	body := e.Body[:min(len(e.Body), abi.MaxBody)]
	fields := e.Fields[:min(len(e.Fields), core.MaxExcerptFields)]
	bodyAt := pairsOffset + len(fields)*abi.PairSize
	textAt := bodyAt + textSize(len(body))
	size := textAt
	for i := range fields {
		more := textSize(len(fields[i].Name)) + textSize(len(fields[i].Value))
		if size+more > abi.JudgeRoom { // the fields that do not fit are left out
			fields = fields[:i]
			break
		}
		size += more
	}
	view, err := in.region(uint32(size))
	if err != nil {
		return core.Ruling{}, err
	}
	*(*core.JudgeRequest)(unsafe.Pointer(&view[0])) = *r
	text := func(at int, s []byte, to int) {
		binary.LittleEndian.PutUint32(view[at:], in.regionAddress+uint32(to))
		binary.LittleEndian.PutUint32(view[at+4:], uint32(len(s)))
		view[to+copy(view[to:], s)] = 0
	}
	const addresses = int(unsafe.Sizeof(core.JudgeRequest{}))
	binary.LittleEndian.PutUint32(view[addresses:], in.regionAddress+pairsOffset)
	binary.LittleEndian.PutUint32(view[addresses+4:], uint32(len(fields)))
	text(addresses+8, body, bodyAt)
	clear(view[rulingOffset:pairsOffset])
	for i := range fields {
		f, at := &fields[i], pairsOffset+i*abi.PairSize
		text(at, unsafe.Slice(unsafe.StringData(f.Name), len(f.Name)), textAt)
		textAt += textSize(len(f.Name))
		text(at+8, f.Value, textAt)
		textAt += textSize(len(f.Value))
		binary.LittleEndian.PutUint64(view[at+16:], math.Float64bits(numberOf(f.Value)))
	}
	in.stack[0], in.stack[1] = uint64(in.regionAddress), uint64(in.regionAddress+rulingOffset)
	if err := in.invoke(in.mainExport); err != nil {
		return core.Ruling{}, err
	}
	if status := int32(in.stack[0]); status != abi.StatusOK {
		return core.Ruling{}, &Fault{Reason: ReasonStatus, Err: fmt.Errorf("%s returned %d", abi.Judge, status)}
	}
	view, ok := in.memory.Read(in.regionAddress+rulingOffset, abi.RulingSize) // read again: the memory may have moved
	if !ok {
		return core.Ruling{}, &Fault{Reason: ReasonMemory, Err: errors.New("the guest's memory has shrunk")}
	}
	return rulingOf(math.Float64frombits(binary.LittleEndian.Uint64(view)),
		math.Float64frombits(binary.LittleEndian.Uint64(view[8:])))
}

// numberOf returns the value of a header field as a number, or NaN if the value is not a number.
func numberOf(value []byte) float64 {
	if len(value) == 0 || len(value) > 32 || !strings.ContainsRune("0123456789+-.", rune(value[0])) {
		return math.NaN()
	}
	if f, err := strconv.ParseFloat(string(value), 64); err == nil {
		return f
	}
	return math.NaN()
}

// rulingOf checks and converts a ruling. The parameters are the fields of an abi.Ruling.
func rulingOf(kind, rest float64) (core.Ruling, error) {
	if kind != math.Trunc(kind) || !(kind >= 0 && kind <= math.MaxUint8) || !core.RulingKind(kind).Valid() {
		return core.Ruling{}, &Fault{Reason: ReasonRuling,
			Err: fmt.Errorf("the kind of the ruling is %v; it must be 0 to %d", kind, abi.RulingTargetFault)}
	}
	r := core.Ruling{Kind: core.RulingKind(kind)}
	if r.Kind != core.RulingBanned {
		return r, nil
	}
	switch {
	case math.IsNaN(rest) || math.IsInf(rest, 0):
		return core.Ruling{}, &Fault{Reason: ReasonNotFinite, Err: fmt.Errorf("the rest is %v", rest)}
	case rest < 0:
		return core.Ruling{}, &Fault{Reason: ReasonNegativeDelay, Err: fmt.Errorf("the rest is %v", rest)}
	case rest == 0:
		r.BanTime = DefaultRest
	default:
		r.BanTime = max(MinRest, time.Duration(min(rest, MaxRest.Seconds())*float64(time.Second)))
	}
	return r, nil
}

// readExcerptSpec calls the module's export judge_wants. A judge without this export needs no part of a response.
func (in *instance) readExcerptSpec() (*core.ExcerptSpec, error) {
	f := in.export(abi.JudgeWants)
	if f == nil {
		return &core.ExcerptSpec{}, nil
	}
	text, err := in.callText(f)
	if err != nil {
		return nil, err
	}
	return parseExcerptSpec(text)
}

// parseExcerptSpec parses the text that the export "judge_wants" returns, with lines such as "body N", "field NAME",
// "status FIRST" and "status FIRST-LAST".
func parseExcerptSpec(text string) (*core.ExcerptSpec, error) {
	w := &core.ExcerptSpec{}
	for n, line := range strings.Split(text, "\n") {
		if line == "" {
			continue
		}
		word, value, _ := strings.Cut(line, " ")
		var err error
		switch word {
		case "body":
			w.Body, err = parseNumber(value, 0, abi.MaxBody)
		case "field":
			err = addField(w, value)
		case "status":
			err = addStatuses(w, value)
		default:
			err = fmt.Errorf("%s is none of body, field and status", quoteWord(word))
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n+1, err)
		}
	}
	return w, nil
}

// quoteWord quotes the beginning of a word.
func quoteWord(word string) string { return strconv.Quote(printable(word[:min(len(word), MaxName)])) }

func parseNumber(text string, low, high int) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < low || n > high {
		return 0, fmt.Errorf("%s is not a number from %d to %d", quoteWord(text), low, high)
	}
	return n, nil
}

func addField(w *core.ExcerptSpec, name string) error {
	name = strings.ToLower(name)
	if !isFieldName(name) || len(name) > MaxName {
		return fmt.Errorf("%s is not a name of a header field of at most %d bytes", quoteWord(name), MaxName)
	}
	if !slices.Contains(w.Fields, name) {
		w.Fields = append(w.Fields, name)
	}
	if len(w.Fields) > abi.MaxFieldNames {
		return fmt.Errorf("it asks for more than %d header fields", abi.MaxFieldNames)
	}
	return nil
}

// isFieldName reports whether name is a token (RFC 9110 section 5.1).
func isFieldName(name string) bool {
	for i := range len(name) {
		c := name[i]
		letter := c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9'
		if !letter && bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), c) < 0 {
			return false
		}
	}
	return name != ""
}

func addStatuses(w *core.ExcerptSpec, value string) error {
	first, last, ranged := strings.Cut(value, "-")
	if !ranged {
		last = first
	}
	low, err := parseNumber(first, 100, 999)
	if err != nil {
		return err
	}
	high, err := parseNumber(last, low, 999)
	if err != nil {
		return err
	}
	w.Statuses = append(w.Statuses, core.Range{First: low, Last: high})
	if len(w.Statuses) > abi.MaxStatuses {
		return fmt.Errorf("it has more than %d lines about statuses", abi.MaxStatuses)
	}
	return nil
}

// sampleForJudge returns the response for the first call of a judge. It has all header fields and the longest body that
// the judge needs.
func sampleForJudge(w *core.ExcerptSpec) (*core.JudgeRequest, *core.Excerpt) {
	body := bytes.Repeat([]byte("<p>Are you a robot? "), abi.MaxBody/20)
	e := &core.Excerpt{Body: body[:min(w.Body, len(body))], Length: 100_000}
	for _, name := range w.Fields {
		e.Fields = append(e.Fields, core.ExcerptField{Name: name, Value: []byte("value")})
	}
	return &core.JudgeRequest{Now: 1.7e9, AttemptsLeft: 2, Status: 403, Latency: 0.1, Length: 100_000,
		HostHash: core.Hash53("example.com"), IDHash: core.Hash53("a")}, e
}
