package conformance

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/whirlpool-proxy/whirlpool/plugins/trial"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/meter"
	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
)

func (k *kit) meters() (string, error) {
	out, err := meter.Rewrite(k.code, meter.Cost{})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d bytes with the fuel gauge", len(out)), nil
}

func (k *kit) compiles() (string, error) {
	m, err := k.host.Compile(k.code)
	if err != nil {
		return "", err
	}
	m.Configure(k.config)
	k.module = m
	return fmt.Sprintf("%d functions", k.desc.Functions), nil
}

func (k *kit) starts() (string, error) {
	var p *wasmhost.Probe
	err := k.module.CheckStart(func() (err error) {
		if p != nil {
			p.Close()
		}
		p, err = k.module.Probe()
		return err
	})
	if p != nil {
		defer p.Close()
	}
	if err != nil {
		if len(k.config) == 0 && refused(err) {
			return "", fmt.Errorf("%w (it got no settings)", err)
		}
		return "", err
	}
	k.learns = p.Learns()
	spent := k.module.Limits().StartFuel - p.Fuel()
	return fmt.Sprintf("%d of %d units of start fuel, %d pages of memory", spent, k.module.Limits().StartFuel,
		p.Pages()), nil
}

// refused reports whether err means that settings were refused: by the module's export configure, or
// because the module's export describe does not declare them. Other errors mean that a call failed.
func refused(err error) bool {
	var f *wasmhost.Fault
	var s *wasmhost.SettingError
	return errors.As(err, &s) || errors.As(err, &f) && f.Reason == wasmhost.ReasonStatus
}

// refusedByHost reports whether the host refused settings because the module does not declare them.
func refusedByHost(err error) bool {
	var bad *wasmhost.CheckError
	return errors.As(err, &bad) && !errors.As(err, new(*wasmhost.Fault))
}

// noRoom reports whether err means that the export reserve returned no region. A module may refuse large settings in
// this way, but not calls.
func noRoom(err error) bool {
	var f *wasmhost.Fault
	return errors.As(err, &f) && f.Reason == wasmhost.ReasonMemory
}

// fresh calls f with a new instance, and returns the error of f.
func (k *kit) fresh(f func(*wasmhost.Probe) error) error {
	p, err := k.module.Probe()
	if err != nil {
		return err
	}
	defer p.Close()
	return f(p)
}

// reserve calls the export reserve and checks the region that it returns.
func reserve(p *wasmhost.Probe, size uint32) (uint32, error) {
	at, err := p.Reserve(size)
	switch {
	case err != nil:
		return 0, fmt.Errorf("reserve(%d): %w", size, err)
	case at == 0:
		return 0, fmt.Errorf("reserve(%d) returned 0, which means no memory", size)
	case at%abi.Alignment != 0:
		return 0, fmt.Errorf("reserve(%d) returned %d, which is no multiple of %d", size, at, abi.Alignment)
	}
	if _, err := p.Read(at, size); err != nil {
		return 0, fmt.Errorf("reserve(%d) returned %d: %w", size, at, err)
	}
	return at, nil
}

// minRegion is the size, in bytes, of the smallest region that the host asks for.
const minRegion = 4096

// sizeFor returns the number of bytes that the host reserves in the module's memory for a call of a scorer with n
// candidates. It is a multiple of 4096.
func sizeFor(n int) uint32 {
	return uint32(abi.RankRequestSize+n*(abi.CandidateSize+abi.ScoreSize)+4095) &^ 4095
}

// largestRegion returns the size, in bytes, of the region for the largest call that every module of this kind must
// serve. Each such module must be able to reserve a region of this size.
func (k *kit) largestRegion() uint32 {
	switch k.desc.Kind {
	case wasmhost.Scorer:
		return sizeFor(abi.MinCandidates)
	case wasmhost.Judge:
		return abi.JudgeRoom
	}
	return minRegion
}

func (k *kit) reserve() (string, error) {
	repeated := int(k.module.Limits().MemoryPages)*16 + 1000
	sizes := []uint32{minRegion}
	if most := k.largestRegion(); most > minRegion {
		sizes = append(sizes, 2*minRegion, minRegion, 3*minRegion, most, minRegion, most)
	}
	err := k.fresh(func(p *wasmhost.Probe) error {
		for _, size := range sizes {
			if _, err := reserve(p, size); err != nil {
				return err
			}
		}
		for i := range repeated { // more regions than fit into the memory, unless the module reuses them
			if _, err := reserve(p, minRegion); err != nil {
				return fmt.Errorf("call %d in a row: %w", i+1, err)
			}
		}
		return nil
	})
	return fmt.Sprintf("aligned, %d times; the largest %d bytes", repeated, slices.Max(sizes)), err
}

// The check answers makes one call. Before the call, it overwrites the whole region, so that the call fails if the
// module keeps its own data there.
func (k *kit) answers() (string, error) {
	err := k.fresh(func(p *wasmhost.Probe) error {
		at, err := reserve(p, k.largestRegion())
		if err != nil {
			return err
		}
		if err := p.Write(at, bytes.Repeat([]byte{0xff}, int(k.largestRegion()))); err != nil {
			return err
		}
		return k.callOnce(p)
	})
	return "a plausible call", err
}

// onceCandidates is the number of candidates in the call that callOnce makes.
const onceCandidates = 10

// limit returns the fuel limit of the call that callOnce makes.
func (k *kit) limit() int64 {
	limit := k.module.Limits().Fuel
	if k.desc.Kind == wasmhost.Scorer {
		limit += onceCandidates * wasmhost.FuelPerCandidate
	}
	return limit
}

// callOnce makes one plausible call.
func (k *kit) callOnce(p *wasmhost.Probe) error {
	switch k.desc.Kind {
	case wasmhost.Backoff:
		w := trial.Waits()[0]
		_, err := p.Delay(&w.Request)
		return err
	case wasmhost.Judge:
		_, err := p.Rule(trial.Responses()[0].For(p.ExcerptSpec()))
		return err
	}
	_, err := score(p, trial.Plausible(onceCandidates))
	return err
}

// reserveLarge checks reserve with an impossible size. A trap counts as a refusal, because in some languages
// a full heap always ends the program.
func (k *kit) reserveLarge() (string, error) {
	size := (k.module.Limits().MemoryPages + 1) << 16
	how := "with 0"
	err := k.fresh(func(p *wasmhost.Probe) error {
		at, err := p.Reserve(size)
		if err != nil {
			how = "by a trap"
			return nil
		}
		if _, err := p.Read(at, size); at != 0 && err != nil {
			return fmt.Errorf("reserve(%d) returned %d though memory has only %d pages", size, at, p.Pages())
		}
		if err := k.callOnce(p); err != nil {
			return fmt.Errorf("after reserve(%d) was refused: %w", size, err)
		}
		return nil
	})
	return fmt.Sprintf("%d bytes, more than memory may have, are refused %s", size, how), err
}

func (k *kit) configure() (string, error) {
	if !slices.Contains(k.desc.Exports, abi.Configure) {
		return "", skip("the module takes no settings: it exports no " + abi.Configure)
	}
	defer k.module.Configure(k.config)
	detail := ""
	for _, c := range []struct {
		name   string
		config map[string]any
	}{
		{"no settings", nil},
		{"an unknown setting", with(k.config, "no_such_setting", 1)},
		{"an empty value", with(k.config, "empty", "")},
		{"a long value", with(k.config, "long", string(bytes.Repeat([]byte("0123456789"), 1000)))},
		{"a key that is no ASCII", with(k.config, "schlüssel", "größe 1,5 €")},
		{"a hundred settings", many(k.config)},
	} {
		k.module.Configure(c.config)
		err := k.fresh(func(p *wasmhost.Probe) error { return nil })
		if err != nil && !refused(err) && !refusedByHost(err) && !noRoom(err) {
			return "", fmt.Errorf("%s: %w", c.name, err)
		}
		word := "accepted"
		if err != nil {
			word = "refused"
		}
		switch c.name {
		case "no settings":
			detail = "no settings " + word
		case "an unknown setting":
			detail += ", an unknown one " + word
		}
	}
	return detail, nil
}

// with returns the configuration with one more setting.
func with(config map[string]any, key string, value any) map[string]any {
	out := map[string]any{key: value}
	for k, v := range config {
		out[k] = v
	}
	return out
}

func many(config map[string]any) map[string]any {
	out := config
	for i := range 100 {
		out = with(out, fmt.Sprintf("setting_%d", i), i)
	}
	return out
}

// score calls the export score for a choice, which is a request with its candidates. It returns an error for results
// that would be plugin faults in the gateway.
func score(p *wasmhost.Probe, c *trial.Choice) ([]float64, error) {
	scores := make([]float64, c.Len())
	if err := p.Score(c, scores); err != nil {
		return nil, fmt.Errorf("%s: %w", c.Name, err)
	}
	return scores, nil
}

func (k *kit) counts() (string, error) {
	err := k.fresh(func(p *wasmhost.Probe) error {
		for _, n := range []int{1, 2, 255, abi.MinCandidates, 1} {
			if _, err := score(p, trial.Plausible(n)); err != nil {
				return err
			}
		}
		return nil
	})
	return fmt.Sprintf("1, 2, 255 and %d candidates", abi.MinCandidates), err
}

// The check many calls the export score with more candidates than a scorer must accept. The module may refuse the size,
// or use up the fuel or the CPU time. It must not trap or return invalid scores.
func (k *kit) many() (string, error) {
	const n = 4096
	detail := fmt.Sprintf("%d candidates", n)
	err := k.fresh(func(p *wasmhost.Probe) error {
		at, err := p.Reserve(sizeFor(n))
		if err != nil || at == 0 {
			detail = fmt.Sprintf("%d candidates are refused: it serves pools up to the default max_candidates", n)
			return nil
		}
		_, err = score(p, trial.Plausible(n))
		if f := (*wasmhost.Fault)(nil); errors.As(err, &f) && (f.Reason == wasmhost.ReasonFuel ||
			f.Reason == wasmhost.ReasonTimeout) {
			detail = fmt.Sprintf("%d candidates take more fuel or time than there is: it serves pools up to the "+
				"default max_candidates", n)
			return nil
		}
		return err
	})
	return detail, err
}

func (k *kit) finite() (string, error) {
	edges := trial.Edges()
	err := k.fresh(func(p *wasmhost.Probe) error {
		for _, c := range edges {
			if _, err := score(p, c); err != nil {
				return err
			}
		}
		return nil
	})
	return fmt.Sprintf("%d choices at the edge of what happens", len(edges)), err
}

func (k *kit) deterministic() (string, error) {
	c := trial.Plausible(50)
	return k.same("scores", func(p *wasmhost.Probe) ([]float64, error) { return score(p, c) },
		func(i int, first, then float64) error {
			return fmt.Errorf("for the same request, the score of candidate %d was %v and then %v", i, first, then)
		})
}

// If a module does not learn, the same calls must have the same results each time. The method same checks this: it
// makes the calls twice with each of three instances. The function ask makes the calls. The function wrong returns the
// error if result number i differs between the first calls and later calls.
func (k *kit) same(what string, ask func(*wasmhost.Probe) ([]float64, error),
	wrong func(i int, first, then float64) error) (string, error) {
	if k.learns {
		return "", skip("a module that learns may answer otherwise the second time")
	}
	var first []float64
	for range 3 {
		err := k.fresh(func(p *wasmhost.Probe) error {
			for range 2 {
				then, err := ask(p)
				if err != nil {
					return err
				}
				if first == nil {
					first = then
				}
				if i := differs(first, then); i >= 0 {
					return wrong(i, first[i], then[i])
				}
			}
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	return "the same " + what + " twice in three instances", nil
}

// differs returns the first index at which a and b differ, or -1.
func differs(a, b []float64) int {
	for i := range a {
		if math.Float64bits(a[i]) != math.Float64bits(b[i]) {
			return i
		}
	}
	return -1
}

// A module must neither use nor change the bytes around the rows and the scores of a choice. The check outside makes
// the same call several times, each time with different bytes around the rows and the scores.
func (k *kit) outside() (string, error) {
	const n, guard = 4, 256 // n is the number of candidates, guard the number of bytes on each side
	c := trial.Plausible(n)
	var first []float64
	for _, filler := range []byte{0x00, 0x3f, 0xff} { // as f64s: 0, about 5e-4, NaN
		err := k.fresh(func(p *wasmhost.Probe) error {
			scores, err := surrounded(p, c, guard, filler)
			if first == nil {
				first = scores
			}
			if err != nil {
				return err
			}
			if i := differs(first, scores); i >= 0 && !k.learns {
				return fmt.Errorf("the score of candidate %d depends on bytes before or behind the rows", i)
			}
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	return "bytes around the records neither matter nor change", nil
}

func surrounded(p *wasmhost.Probe, c *trial.Choice, guard uint32, filler byte) ([]float64, error) {
	n := uint32(c.Len())
	size := (4*guard + abi.RankRequestSize + n*(abi.CandidateSize+abi.ScoreSize) + 4095) &^ 4095
	base, err := reserve(p, size)
	if err != nil {
		return nil, err
	}
	request := base + guard
	rows := request + abi.RankRequestSize + guard
	scores := rows + n*abi.CandidateSize + guard
	end := scores + n*abi.ScoreSize
	records := bytes.NewBuffer(nil)
	binary.Write(records, binary.LittleEndian, c.Rows)
	head := bytes.NewBuffer(nil)
	binary.Write(head, binary.LittleEndian, c.Request)
	for at, b := range map[uint32][]byte{
		base: bytes.Repeat([]byte{filler}, int(guard)), request: head.Bytes(),
		request + abi.RankRequestSize: bytes.Repeat([]byte{filler}, int(guard)),
		rows:                          records.Bytes(), rows + n*abi.CandidateSize: bytes.Repeat([]byte{filler},
			int(guard)),
		end: bytes.Repeat([]byte{filler}, int(guard)),
	} {
		if err := p.Write(at, b); err != nil {
			return nil, err
		}
	}
	status, err := p.ScoreAt(request, rows, scores, n)
	if err != nil {
		return nil, err
	}
	if status != abi.StatusOK {
		return nil, fmt.Errorf("score returned %d", status)
	}
	for name, at := range map[string]uint32{"before the request": base,
		"behind the request": request + abi.RankRequestSize, "before the scores": scores - guard,
		"behind the scores": end} {
		got, err := p.Read(at, guard)
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(got, bytes.Repeat([]byte{filler}, int(guard))) {
			return nil, fmt.Errorf("the call wrote to bytes %s", name)
		}
	}
	out, err := p.Read(scores, n*abi.ScoreSize)
	if err != nil {
		return nil, err
	}
	list := make([]float64, n)
	for i := range list {
		list[i] = math.Float64frombits(binary.LittleEndian.Uint64(out[i*8:]))
		if math.IsNaN(list[i]) || math.IsInf(list[i], 0) {
			return nil, fmt.Errorf("the score of candidate %d is %v", i, list[i])
		}
	}
	return list, nil
}

func (k *kit) waits() (string, error) {
	waits := trial.Waits()
	err := k.fresh(func(p *wasmhost.Probe) error {
		_, err := delays(p, waits)
		return err
	})
	return fmt.Sprintf("%d questions, at the edge too", len(waits)), err
}

func delays(p *wasmhost.Probe, waits []trial.Wait) ([]float64, error) {
	list := make([]float64, 0, len(waits))
	for _, w := range waits {
		d, err := p.Delay(&w.Request)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.Name, err)
		}
		list = append(list, d)
	}
	return list, nil
}

func (k *kit) sameWaits() (string, error) {
	waits := trial.Waits()
	return k.same("waits", func(p *wasmhost.Probe) ([]float64, error) { return delays(p, waits) },
		func(i int, first, then float64) error {
			return fmt.Errorf("%s: for the same request, the wait was %v s and then %v s", waits[i].Name, first, then)
		})
}

func (k *kit) observe() (string, error) {
	if !k.learns {
		return "", skip("the module does not learn: it exports no " + abi.Observe)
	}
	list := trial.Observations(1000)
	err := k.fresh(func(p *wasmhost.Probe) error {
		for i := range list {
			if err := p.Observe(&list[i]); err != nil {
				return fmt.Errorf("observation %d, %+v: %w", i, list[i], err)
			}
			if i%100 == 0 {
				if err := k.callOnce(p); err != nil {
					return fmt.Errorf("after %d observations: %w", i+1, err)
				}
			}
		}
		return nil
	})
	return fmt.Sprintf("%d, with calls between them", len(list)), err
}

// pools returns pools of different kinds, including extreme ones.
func pools() [][]wasmhost.Proxy {
	large := make([]wasmhost.Proxy, 300)
	for i := range large {
		large[i] = wasmhost.Proxy{ID: trial.ID(i), Region: []string{"", "EU", "US-EAST"}[i%3], Weight: 1,
			Cost: float64(i % 7), Metadata: map[string]string{"plan": "gold", "n": fmt.Sprint(i)}}
	}
	odd := []wasmhost.Proxy{
		{ID: "größer-€", Region: "Zürich", Weight: 1e6, Cost: 1e12,
			Metadata: map[string]string{"": "", "ключ": "значение"}},
		{ID: string(bytes.Repeat([]byte("x"), 256)), Weight: 1e-9},
	}
	return [][]wasmhost.Proxy{large[:1], large[:10], odd, {}, large, large[:10]}
}

func (k *kit) poolChanged() (string, error) {
	if !slices.Contains(k.desc.Exports, abi.PoolChanged) {
		return "", skip("the module does not ask for it: it exports no " + abi.PoolChanged)
	}
	err := k.fresh(func(p *wasmhost.Probe) error {
		for _, pool := range pools() {
			if err := p.SetPool(pool); err != nil {
				return fmt.Errorf("%d proxies: %w", len(pool), err)
			}
			if err := k.callOnce(p); err != nil {
				return fmt.Errorf("after a change to %d proxies: %w", len(pool), err)
			}
		}
		return nil
	})
	return "pools of 0 to 300 proxies, with regions, metadata and text that is no ASCII", err
}

// The check memory_stable makes its calls in rounds. The first round makes this number of calls. Each round ends
// early if its calls have used up this fuel.
const (
	calls = 10_000
	work  = 2_000_000_000 // fuel
)

// rounds is the maximum number of rounds of memory_stable in which memory may grow. A Go module needs several rounds:
// Go's garbage collector runs for the first time when the module has allocated 4 MiB. If each call allocates 50
// bytes, this is after 80,000 calls.
const rounds = 5

// The check memory passes if memory does not grow without end. It makes many calls, and then repeats this at most
// "rounds" times. The number of calls doubles from one repetition to the next. The check passes if the memory does not
// grow during one of the repetitions.
func (k *kit) memory() (string, error) {
	list := trial.Observations(100)
	var pages uint32
	made := 0
	err := k.fresh(func(p *wasmhost.Probe) error {
		run := func(calls int) error {
			left := int64(work)
			for made = 0; made < calls && left > 0; made++ {
				if err := k.callOnce(p); err != nil {
					return fmt.Errorf("call %d: %w", made+1, err)
				}
				left -= k.limit() - p.Fuel()
				if err := p.Observe(&list[made%len(list)]); err != nil {
					return fmt.Errorf("observation %d: %w", made+1, err)
				}
			}
			return nil
		}
		if err := run(calls); err != nil {
			return err
		}
		for round := range rounds {
			before := p.Pages()
			if err := run(calls << round); err != nil {
				return err
			}
			if pages = p.Pages(); pages == before {
				return nil
			}
		}
		return fmt.Errorf("memory grew to %d pages, and still grew in the last %d calls", pages, made)
	})
	return fmt.Sprintf("%d pages, and no more in %d calls", pages, made), err
}

func (k *kit) fuel() (string, error) {
	limit := k.module.Limits().Fuel
	if k.desc.Kind == wasmhost.Judge {
		spent, err := k.dearestRuling(limit)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%d units for the dearest response, of %d", spent, limit), enough(spent, limit)
	}
	if k.desc.Kind == wasmhost.Backoff {
		spent, err := k.dearestWait(limit)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%d units for the dearest wait, of %d", spent, limit), enough(spent, limit)
	}
	one, err := k.spent(1)
	if err != nil {
		return "", err
	}
	all, err := k.spent(abi.MinCandidates)
	if err != nil {
		return "", err
	}
	limit += abi.MinCandidates * wasmhost.FuelPerCandidate
	detail := fmt.Sprintf("%d units for one candidate, %.1f for each more; %d for %d, of %d", one,
		float64(all-one)/(abi.MinCandidates-1), all, abi.MinCandidates, limit)
	return detail, enough(all, limit)
}

// enough returns an error if less than a tenth of the fuel is left.
func enough(spent, limit int64) error {
	if spent > limit/10*9 {
		return fmt.Errorf("a call takes %d of its %d units of fuel", spent, limit)
	}
	return nil
}

// spent returns the fuel that a call for a choice among n candidates uses. It measures the second call,
// because the first call may have to reserve memory.
func (k *kit) spent(n int) (fuel int64, err error) {
	c := trial.Plausible(n)
	err = k.fresh(func(p *wasmhost.Probe) error {
		for range 2 {
			if _, err := score(p, c); err != nil {
				return err
			}
		}
		fuel = k.module.Limits().Fuel + int64(n)*wasmhost.FuelPerCandidate - p.Fuel()
		return nil
	})
	return fuel, err
}

func (k *kit) dearestWait(limit int64) (fuel int64, err error) {
	err = k.fresh(func(p *wasmhost.Probe) error {
		for _, w := range trial.Waits() {
			for range 2 {
				if _, err := p.Delay(&w.Request); err != nil {
					return fmt.Errorf("%s: %w", w.Name, err)
				}
			}
			fuel = max(fuel, limit-p.Fuel())
		}
		return nil
	})
	return fuel, err
}

// The check time limits the CPU time of the most expensive calls that every module must serve.
func (k *kit) time() (string, error) {
	within := k.module.Limits().CallTimeout / 4
	detail := fmt.Sprintf("a call takes less than %v of CPU time, a quarter of its timeout", within)
	return detail, k.fresh(func(p *wasmhost.Probe) error {
		if k.desc.Kind == wasmhost.Judge {
			for _, r := range trial.Responses() {
				err := k.module.CheckCall(func() error {
					_, err := p.Rule(r.For(p.ExcerptSpec()))
					return err
				})
				if err != nil {
					return fmt.Errorf("%s: %w", r.Name, err)
				}
			}
			return nil
		}
		if k.desc.Kind == wasmhost.Backoff {
			for _, w := range trial.Waits() {
				err := k.module.CheckCall(func() error {
					_, err := p.Delay(&w.Request)
					return err
				})
				if err != nil {
					return fmt.Errorf("%s: %w", w.Name, err)
				}
			}
			return nil
		}
		c := trial.Plausible(abi.MinCandidates)
		return k.module.CheckCall(func() error {
			_, err := score(p, c)
			return err
		})
	})
}

// The check instances passes if many calls of one instance do not affect another instance.
func (k *kit) instances() (string, error) {
	answer := func(p *wasmhost.Probe) ([]float64, error) {
		switch k.desc.Kind {
		case wasmhost.Backoff:
			return delays(p, trial.Waits())
		case wasmhost.Judge:
			return rule(p, trial.Responses())
		}
		return score(p, trial.Plausible(20))
	}
	var alone, beside []float64
	err := k.fresh(func(p *wasmhost.Probe) (err error) {
		alone, err = answer(p)
		return err
	})
	if err != nil {
		return "", err
	}
	list := trial.Observations(200)
	err = k.fresh(func(busy *wasmhost.Probe) error {
		return k.fresh(func(p *wasmhost.Probe) (err error) {
			for i := range list {
				if err := busy.Observe(&list[i]); err != nil {
					return err
				}
				if _, err := answer(busy); err != nil {
					return err
				}
			}
			beside, err = answer(p)
			return err
		})
	})
	if err != nil {
		return "", err
	}
	if i := differs(alone, beside); i >= 0 {
		return "", fmt.Errorf("result %d is %v alone, but %v if another instance is busy", i, alone[i], beside[i])
	}
	return "the calls of one do not affect another", nil
}
