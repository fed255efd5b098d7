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

// pairs flattens a configuration table, sorted by key. Keys of nested tables are joined with dots.
func pairs(config map[string]any) []pair {
	var out []pair
	for _, key := range slices.Sorted(maps.Keys(config)) {
		switch v := config[key].(type) {
		case map[string]any:
			for _, p := range pairs(v) {
				out = append(out, pair{key + "." + p.key, p.value})
			}
		default:
			out = append(out, pair{key, text(v)})
		}
	}
	slices.SortStableFunc(out, func(a, b pair) int { return strings.Compare(a.key, b.key) })
	return out
}

// text returns a setting's value in the form that the module receives.
func text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case []any:
		list := make([]string, len(v))
		for i, item := range v {
			list[i] = text(item)
		}
		return strings.Join(list, ",")
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return strconv.FormatInt(n, 10)
		}
		if f, err := v.Float64(); err == nil {
			return text(f)
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

// Proxy is one proxy of the pool in the form that pool_changed receives.
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

// updatePool calls pool_changed if the instance does not have the current pool.
func (in *instance) updatePool() error {
	if in.poolChanged == nil {
		return nil
	}
	pool := in.module.pool.Load()
	if pool == in.pool || pool == nil {
		return nil
	}
	in.allowCall(len(*pool))
	w := layout{fixed: len(*pool) * abi.ProxySize}
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
	if err := in.put(&w); err != nil {
		return err
	}
	in.stack[0], in.stack[1] = uint64(in.base), uint64(len(*pool))
	if err := in.invoke(in.poolChanged); err != nil {
		return err
	}
	in.pool = pool
	return nil
}

// configureWith calls the export configure with the settings in config.
func (in *instance) configureWith(config []pair) error {
	w := layout{fixed: 0}
	at := w.pairs(config)
	if err := in.put(&w); err != nil {
		return err
	}
	in.stack[0], in.stack[1] = uint64(in.base)+uint64(at), uint64(len(config))
	if err := in.invoke(in.configure); err != nil {
		return err
	}
	if status := int32(in.stack[0]); status != abi.StatusOK {
		return &Fault{Reason: ReasonStatus, Err: fmt.Errorf("it refused its configuration with status %d%s", status,
			in.host.printed.because())}
	}
	return nil
}

// layout builds records that contain the addresses of other records. At first, the addresses are relative to the first
// byte. The method put makes them absolute when it writes the records into memory.
type layout struct {
	fixed  int // number of bytes at the beginning; the methods u32, f64 and address write them
	bytes  []byte
	fixups []int // offsets of the addresses
}

// grow appends n zero bytes, and returns the offset of the first one, a multiple of abi.Alignment.
func (l *layout) grow(n int) int {
	if len(l.bytes) < l.fixed {
		l.bytes = append(l.bytes, make([]byte, l.fixed-len(l.bytes))...)
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
	l.grow(0)
	binary.LittleEndian.PutUint64(l.bytes[at:], math.Float64bits(v))
}

// address writes an address into the records. The parameter at is the offset of the address, and to is the
// offset of the byte that it points to.
func (l *layout) address(at, to int) {
	l.u32(at, uint32(to))
	l.fixups = append(l.fixups, at)
}

// text appends the text s. It writes the address and the length of s at the offset at.
func (l *layout) text(at int, s string) {
	to := l.grow(len(s) + 1)
	copy(l.bytes[to:], s)
	l.address(at, to)
	l.u32(at+4, uint32(len(s)))
}

// pairs appends a record for each pair, and returns the offset of the first record.
func (l *layout) pairs(list []pair) int {
	first := l.grow(len(list) * abi.PairSize)
	for i, p := range list {
		at := first + i*abi.PairSize
		l.text(at, p.key)
		l.text(at+8, p.value)
		l.f64(at+16, p.number())
	}
	return first
}

// put writes the records of w into a region of the module's memory. The region begins at in.base.
func (in *instance) put(w *layout) error {
	w.grow(8)
	view, err := in.region(uint32(len(w.bytes)))
	if err != nil {
		return err
	}
	for _, at := range w.fixups {
		w.u32(at, binary.LittleEndian.Uint32(w.bytes[at:])+in.base)
	}
	copy(view, w.bytes)
	return nil
}

// trial is the input of a scorer's first call. It has the number of candidates that every scorer must
// accept.
type trial struct{}

func (trial) Len() int { return abi.MinCandidates }

func (trial) Fill(req *core.RankRequest, rows []core.Candidate) {
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

var trialBackoff = core.BackoffRequest{
	Retry: 1, BaseDelay: 1, Multiplier: 2, Cap: 30, Random: 0.5, Remaining: -1, MaxAttempts: 3, Now: 1.7e9,
}
