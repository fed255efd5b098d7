package wasmhost

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
)

// pair is a key and a value of a configuration, as in abi.Pair.
type pair struct{ key, value string }

// pairs returns the settings of a configuration as keys and values, sorted by key. Keys of nested tables are joined
// with dots.
func pairs(config map[string]any) []pair {
	var out []pair
	for _, key := range slices.Sorted(maps.Keys(config)) {
		switch v := config[key].(type) {
		case map[string]any:
			for _, p := range pairs(v) {
				out = append(out, pair{key + "." + p.key, p.value})
			}
		default:
			out = append(out, pair{key, settingText(v)})
		}
	}
	slices.SortStableFunc(out, func(a, b pair) int { return strings.Compare(a.key, b.key) })
	return out
}

// settingText returns a setting's value in the form that the module receives.
func settingText(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case []any:
		list := make([]string, len(v))
		for i, item := range v {
			list[i] = settingText(item)
		}
		return strings.Join(list, ",")
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return strconv.FormatInt(n, 10)
		}
		if f, err := v.Float64(); err == nil {
			return settingText(f)
		}
		return v.String()
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	case time.Time:
		return v.Format(time.RFC3339Nano)
	}
	return fmt.Sprint(v)
}

func (p pair) number() float64 {
	switch p.value {
	case "true":
		return 1
	case "false":
		return 0
	}
	if f, err := strconv.ParseFloat(p.value, 64); err == nil {
		return f
	}
	return math.NaN()
}

// Proxy is one proxy of the pool, with the data that the export "pool_changed" receives.
type Proxy struct {
	ID, Region   string
	Weight, Cost float64
	Metadata     map[string]string
}

// SetPool sets the proxies of the pool. Each instance receives them before its next call.
func (m *Module) SetPool(proxies []Proxy) {
	if m.desc.WantsPool {
		m.pool.Store(&proxies)
	}
}

// passPool calls the export "pool_changed" if the instance has not received the current pool yet.
func (in *instance) passPool() error {
	if in.poolChanged == nil {
		return nil
	}
	pool := in.module.pool.Load()
	if pool == in.pool || pool == nil {
		return nil
	}
	in.setCallBudget(len(*pool))
	w := layout{headSize: len(*pool) * abi.ProxySize}
	for i, p := range *pool {
		at := i * abi.ProxySize
		w.f64(at, core.Hash53(p.ID))
		w.f64(at+8, core.RegionHash(p.Region))
		w.f64(at+16, p.Weight)
		w.f64(at+24, p.Cost)
		w.text(at+32, p.ID)
		w.text(at+40, p.Region)
		list := make([]pair, 0, len(p.Metadata))
		for _, k := range slices.Sorted(maps.Keys(p.Metadata)) {
			list = append(list, pair{k, p.Metadata[k]})
		}
		w.address(at+48, w.pairs(list))
		w.u32(at+52, uint32(len(list)))
	}
	if err := in.writeRecords(&w); err != nil {
		return err
	}
	in.stack[0], in.stack[1] = uint64(in.regionAddress), uint64(len(*pool))
	if err := in.invoke(in.poolChanged); err != nil {
		return err
	}
	in.pool = pool
	return nil
}

func (in *instance) callConfigure(config []pair) error {
	w := layout{headSize: 0}
	at := w.pairs(config)
	if err := in.writeRecords(&w); err != nil {
		return err
	}
	in.stack[0], in.stack[1] = uint64(in.regionAddress)+uint64(at), uint64(len(config))
	if err := in.invoke(in.configure); err != nil {
		return err
	}
	if status := int32(in.stack[0]); status != abi.StatusOK {
		return &Fault{Reason: ReasonStatus, Err: fmt.Errorf("it refused its configuration with status %d%s", status,
			in.host.output.explanationText())}
	}
	return nil
}

// layout builds records that contain the addresses of other records. Until writeRecords writes the records into
// memory, these addresses are offsets from the first byte.
type layout struct {
	headSize       int // number of bytes at the beginning; the methods u32, f64 and address write them
	bytes          []byte
	addressOffsets []int // offsets of the addresses
}

// appendZeros appends n zero bytes and returns their offset, a multiple of abi.Alignment.
func (l *layout) appendZeros(n int) int {
	if len(l.bytes) < l.headSize {
		l.bytes = append(l.bytes, make([]byte, l.headSize-len(l.bytes))...)
	}
	for len(l.bytes)%abi.Alignment != 0 {
		l.bytes = append(l.bytes, 0)
	}
	at := len(l.bytes)
	l.bytes = append(l.bytes, make([]byte, n)...)
	return at
}

func (l *layout) u32(at int, v uint32) { binary.LittleEndian.PutUint32(l.bytes[at:], v) }

func (l *layout) f64(at int, v float64) {
	l.appendZeros(0)
	binary.LittleEndian.PutUint64(l.bytes[at:], math.Float64bits(v))
}

// address writes a pointer. The parameter at is the offset of the pointer, and the parameter to is the offset of the
// byte that it points to.
func (l *layout) address(at, to int) {
	l.u32(at, uint32(to))
	l.addressOffsets = append(l.addressOffsets, at)
}

// text appends the text s, and writes its address and its length at the given offset.
func (l *layout) text(at int, s string) {
	to := l.appendZeros(len(s) + 1)
	copy(l.bytes[to:], s)
	l.address(at, to)
	l.u32(at+4, uint32(len(s)))
}

// pairs appends an abi.Pair for each key and value in the list, and returns the offset of the first of these records.
func (l *layout) pairs(list []pair) int {
	first := l.appendZeros(len(list) * abi.PairSize)
	for i, p := range list {
		at := first + i*abi.PairSize
		l.text(at, p.key)
		l.text(at+8, p.value)
		l.f64(at+16, p.number())
	}
	return first
}

// writeRecords writes the records of w into the region of the module's memory.
func (in *instance) writeRecords(w *layout) error {
	w.appendZeros(8)
	view, err := in.region(uint32(len(w.bytes)))
	if err != nil {
		return err
	}
	for _, at := range w.addressOffsets {
		w.u32(at, binary.LittleEndian.Uint32(w.bytes[at:])+in.regionAddress)
	}
	copy(view, w.bytes)
	return nil
}

// sampleCandidates is the input of a scorer's first call, with the number of candidates that every scorer must accept.
type sampleCandidates struct{}

func (sampleCandidates) Len() int { return abi.MinCandidates }

func (sampleCandidates) Fill(req *core.RankRequest, rows []core.Candidate) {
	*req = core.RankRequest{Count: float64(len(rows)), Now: 1.7e9, Turn: 7, Seed: 0x12345678,
		HostHash: core.Hash53("example.com"), PoolSize: float64(len(rows)), Idempotent: 1}
	for i := range rows {
		f := float64(i)
		rows[i] = core.Candidate{
			SuccessRate: 1 - f/512, Samples: math.Mod(f, 101), LatencyMean: 0.01 * f, LatencyEWMA: 0.01 * f,
			NormalizedLatency: f / 256,
			InFlight:          math.Mod(f, 5), Weight: 1, Cost: math.Mod(f, 3), RegionMatch: math.Mod(f, 2),
			SinceUse: f - 1,
			Uses:     f,
			IDHash:   core.Hash53(strconv.Itoa(i)), AffinityHash: core.Hash53(strconv.Itoa(-i)), Rotation: f,
		}
	}
}

var sampleBackoff = core.BackoffRequest{
	Retry: 1, BaseDelay: 1, Multiplier: 2, Cap: 30, Random: 0.5, Remaining: -1, MaxAttempts: 3, Now: 1.7e9,
}
