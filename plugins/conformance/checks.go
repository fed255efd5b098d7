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

func (k *checker) checkMeters() (string, error) {
	out, err := meter.Rewrite(k.code, meter.Cost{})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d bytes with the fuel gauge", len(out)), nil
}

func (k *checker) checkCompiles() (string, error) {
	m, err := k.host.Compile(k.code)
	if err != nil {
		return "", err
	}
	m.Configure(k.config)
	k.module = m
	return fmt.Sprintf("%d functions", k.desc.Functions), nil
}

func (k *checker) checkStarts() (string, error) {
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
		if len(k.config) == 0 && isSettingsRefusal(err) {
			return "", fmt.Errorf("%w (it got no settings)", err)
		}
		return "", err
	}
	k.learns = p.Learns()
	spent := k.module.Limits().StartFuel - p.Fuel()
	return fmt.Sprintf("%d of %d units of start fuel, %d pages of memory", spent, k.module.Limits().StartFuel,
		p.Pages()), nil
}

// isSettingsRefusal reports whether err is a refusal of settings: the export "configure" returned an error status, or
// the export "describe" does not permit the settings. Any other error means that a call failed.
func isSettingsRefusal(err error) bool {
	var f *wasmhost.Fault
	var s *wasmhost.SettingError
	return errors.As(err, &s) || errors.As(err, &f) && f.Reason == wasmhost.ReasonStatus
}

// isRefusedByHost reports whether the host refused settings that the module does not declare.
func isRefusedByHost(err error) bool {
	var bad *wasmhost.CheckError
	return errors.As(err, &bad) && !errors.As(err, new(*wasmhost.Fault))
}

// isMemoryFault reports whether the export "reserve" returned no usable region. A module may refuse large settings in
// this way. It must not refuse a call in this way.
func isMemoryFault(err error) bool {
	var f *wasmhost.Fault
	return errors.As(err, &f) && f.Reason == wasmhost.ReasonMemory
}

// withInstance calls f with a new instance.
func (k *checker) withInstance(f func(*wasmhost.Probe) error) error {
	p, err := k.module.Probe()
	if err != nil {
		return err
	}
	defer p.Close()
	return f(p)
}

// callReserve calls the export "reserve" and checks the region that it returns.
func callReserve(p *wasmhost.Probe, size uint32) (uint32, error) {
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

// scorerRegionSize returns the number of bytes that the host reserves for a call of a scorer with n candidates, a
// multiple of 4096.
func scorerRegionSize(n int) uint32 {
	return uint32(abi.RankRequestSize+n*(abi.CandidateSize+abi.ScoreSize)+4095) &^ 4095
}

// largestRegion returns the size, in bytes, of the largest region that every module of this kind must be able to
// reserve.
func (k *checker) largestRegion() uint32 {
	switch k.desc.Kind {
	case wasmhost.Scorer:
		return scorerRegionSize(abi.MinCandidates)
	case wasmhost.Judge:
		return abi.JudgeRoom
	}
	return minRegion
}

func (k *checker) checkReserve() (string, error) {
	repeated := int(k.module.Limits().MemoryPages)*16 + 1000
	sizes := []uint32{minRegion}
	if most := k.largestRegion(); most > minRegion {
		sizes = append(sizes, 2*minRegion, minRegion, 3*minRegion, most, minRegion, most)
	}
	err := k.withInstance(func(p *wasmhost.Probe) error {
		for _, size := range sizes {
			if _, err := callReserve(p, size); err != nil {
				return err
			}
		}
		for i := range repeated { // more regions than fit into the memory, unless the module reuses them
			if _, err := callReserve(p, minRegion); err != nil {
				return fmt.Errorf("call %d in a row: %w", i+1, err)
			}
		}
		return nil
	})
	return fmt.Sprintf("aligned, %d times; the largest %d bytes", repeated, slices.Max(sizes)), err
}

// checkAnswers makes one call. It first overwrites the whole region for the host's records. If the module keeps its own
// data there, the call fails.
func (k *checker) checkAnswers() (string, error) {
	err := k.withInstance(func(p *wasmhost.Probe) error {
		at, err := callReserve(p, k.largestRegion())
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

// onceFuelLimit returns the fuel limit of the call that callOnce makes.
func (k *checker) onceFuelLimit() int64 {
	limit := k.module.Limits().Fuel
	if k.desc.Kind == wasmhost.Scorer {
		limit += onceCandidates * wasmhost.FuelPerCandidate
	}
	return limit
}

func (k *checker) callOnce(p *wasmhost.Probe) error {
	switch k.desc.Kind {
	case wasmhost.Backoff:
		w := trial.BackoffSamples()[0]
		_, err := p.Delay(&w.Request)
		return err
	case wasmhost.Judge:
		_, err := p.Rule(trial.Responses()[0].ForJudge(p.ExcerptSpec()))
		return err
	}
	_, err := callScorer(p, trial.PlausibleChoice(onceCandidates))
	return err
}

// checkReserveLarge checks that the export "reserve" refuses a size that the memory cannot have. A trap counts as a
// refusal, because in some languages a full heap always ends the program.
func (k *checker) checkReserveLarge() (string, error) {
	size := (k.module.Limits().MemoryPages + 1) << 16
	how := "with 0"
	err := k.withInstance(func(p *wasmhost.Probe) error {
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

func (k *checker) checkConfigure() (string, error) {
	if !slices.Contains(k.desc.Exports, abi.Configure) {
		return "", skipError("the module takes no settings: it exports no " + abi.Configure)
	}
	defer k.module.Configure(k.config)
	detail := ""
	for _, c := range []struct {
		name   string
		config map[string]any
	}{
		{"no settings", nil},
		{"an unknown setting", withSetting(k.config, "no_such_setting", 1)},
		{"an empty value", withSetting(k.config, "empty", "")},
		{"a long value", withSetting(k.config, "long", string(bytes.Repeat([]byte("0123456789"), 1000)))},
		{"a key that is no ASCII", withSetting(k.config, "schlüssel", "größe 1,5 €")},
		{"a hundred settings", withHundredSettings(k.config)},
	} {
		k.module.Configure(c.config)
		err := k.withInstance(func(p *wasmhost.Probe) error { return nil })
		if err != nil && !isSettingsRefusal(err) && !isRefusedByHost(err) && !isMemoryFault(err) {
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

func withSetting(config map[string]any, key string, value any) map[string]any {
	out := map[string]any{key: value}
	for k, v := range config {
		out[k] = v
	}
	return out
}

func withHundredSettings(config map[string]any) map[string]any {
	out := config
	for i := range 100 {
		out = withSetting(out, fmt.Sprintf("setting_%d", i), i)
	}
	return out
}

// callScorer calls the export "score". It returns an error for results that would be plugin faults in the gateway.
func callScorer(p *wasmhost.Probe, c *trial.Choice) ([]float64, error) {
	scores := make([]float64, c.Len())
	if err := p.Score(c, scores); err != nil {
		return nil, fmt.Errorf("%s: %w", c.Name, err)
	}
	return scores, nil
}

func (k *checker) checkCounts() (string, error) {
	err := k.withInstance(func(p *wasmhost.Probe) error {
		for _, n := range []int{1, 2, 255, abi.MinCandidates, 1} {
			if _, err := callScorer(p, trial.PlausibleChoice(n)); err != nil {
				return err
			}
		}
		return nil
	})
	return fmt.Sprintf("1, 2, 255 and %d candidates", abi.MinCandidates), err
}

// checkMany calls the export "score" with more candidates than a scorer must accept. The module may refuse to reserve
// this much memory, or use up the fuel or the CPU time. It must not trap or return invalid scores.
func (k *checker) checkMany() (string, error) {
	const n = 4096
	detail := fmt.Sprintf("%d candidates", n)
	err := k.withInstance(func(p *wasmhost.Probe) error {
		at, err := p.Reserve(scorerRegionSize(n))
		if err != nil || at == 0 {
			detail = fmt.Sprintf("%d candidates are refused: it serves pools up to the default max_candidates", n)
			return nil
		}
		_, err = callScorer(p, trial.PlausibleChoice(n))
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

func (k *checker) checkFinite() (string, error) {
	edges := trial.ExtremeChoices()
	err := k.withInstance(func(p *wasmhost.Probe) error {
		for _, c := range edges {
			if _, err := callScorer(p, c); err != nil {
				return err
			}
		}
		return nil
	})
	return fmt.Sprintf("%d choices at the edge of what happens", len(edges)), err
}

func (k *checker) checkDeterministic() (string, error) {
	c := trial.PlausibleChoice(50)
	return k.checkSameResults("scores", func(p *wasmhost.Probe) ([]float64, error) { return callScorer(p, c) },
		func(i int, first, then float64) error {
			return fmt.Errorf("for the same request, the score of candidate %d was %v and then %v", i, first, then)
		})
}

// checkSameResults checks that a module that does not learn returns the same results for the same calls. It calls
// makeCalls twice with each of three instances. If result number i is not always the same, it returns the error that
// differenceError makes.
func (k *checker) checkSameResults(what string, makeCalls func(*wasmhost.Probe) ([]float64, error),
	differenceError func(i int, first, later float64) error) (string, error) {
	if k.learns {
		return "", skipError("a module that learns may answer otherwise the second time")
	}
	var first []float64
	for range 3 {
		err := k.withInstance(func(p *wasmhost.Probe) error {
			for range 2 {
				later, err := makeCalls(p)
				if err != nil {
					return err
				}
				if first == nil {
					first = later
				}
				if i := firstDifference(first, later); i >= 0 {
					return differenceError(i, first[i], later[i])
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

// firstDifference returns the first index at which a and b differ; -1 for none.
func firstDifference(a, b []float64) int {
	for i := range a {
		if math.Float64bits(a[i]) != math.Float64bits(b[i]) {
			return i
		}
	}
	return -1
}

// checkOutside checks that a scorer neither uses nor changes the bytes around the host's records. It makes the same
// call several times, each time with different bytes around the records.
func (k *checker) checkOutside() (string, error) {
	const n, guard = 4, 256 // n is the number of candidates, guard the number of bytes on each side
	c := trial.PlausibleChoice(n)
	var first []float64
	for _, filler := range []byte{0x00, 0x3f, 0xff} { // as f64s: 0, about 5e-4, NaN
		err := k.withInstance(func(p *wasmhost.Probe) error {
			scores, err := scoreSurrounded(p, c, guard, filler)
			if first == nil {
				first = scores
			}
			if err != nil {
				return err
			}
			if i := firstDifference(first, scores); i >= 0 && !k.learns {
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

func scoreSurrounded(p *wasmhost.Probe, c *trial.Choice, guard uint32, filler byte) ([]float64, error) {
	n := uint32(c.Len())
	size := (4*guard + abi.RankRequestSize + n*(abi.CandidateSize+abi.ScoreSize) + 4095) &^ 4095
	base, err := callReserve(p, size)
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

func (k *checker) checkWaits() (string, error) {
	waits := trial.BackoffSamples()
	err := k.withInstance(func(p *wasmhost.Probe) error {
		_, err := callBackoffs(p, waits)
		return err
	})
	return fmt.Sprintf("%d questions, at the edge too", len(waits)), err
}

func callBackoffs(p *wasmhost.Probe, waits []trial.BackoffSample) ([]float64, error) {
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

func (k *checker) checkSameWaits() (string, error) {
	waits := trial.BackoffSamples()
	return k.checkSameResults("waits", func(p *wasmhost.Probe) ([]float64, error) { return callBackoffs(p, waits) },
		func(i int, first, then float64) error {
			return fmt.Errorf("%s: for the same request, the wait was %v s and then %v s", waits[i].Name, first, then)
		})
}

func (k *checker) checkObserve() (string, error) {
	if !k.learns {
		return "", skipError("the module does not learn: it exports no " + abi.Observe)
	}
	list := trial.Observations(1000)
	err := k.withInstance(func(p *wasmhost.Probe) error {
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

// pools returns samples of a pool: plausible and extreme lists of proxies.
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

func (k *checker) checkPoolChanged() (string, error) {
	if !slices.Contains(k.desc.Exports, abi.PoolChanged) {
		return "", skipError("the module does not ask for it: it exports no " + abi.PoolChanged)
	}
	err := k.withInstance(func(p *wasmhost.Probe) error {
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

// The number of calls of the first round of checkMemory, and the fuel after which a round ends early.
const (
	firstRoundCalls = 10_000
	roundFuel       = 2_000_000_000 // fuel
)

// maxRounds is the maximum number of rounds of checkMemory. A Go module needs several: Go's garbage collector runs for
// the first time when the module has allocated 4 MiB. If each call allocates 50 bytes, this is after 80,000 calls.
const maxRounds = 5

// checkMemory checks that the memory of an instance stops growing. After many calls, it makes rounds of calls until the
// memory does not grow in a round. Each round has twice as many calls as the round before.
func (k *checker) checkMemory() (string, error) {
	list := trial.Observations(100)
	var pages uint32
	made := 0
	err := k.withInstance(func(p *wasmhost.Probe) error {
		run := func(calls int) error {
			left := int64(roundFuel)
			for made = 0; made < calls && left > 0; made++ {
				if err := k.callOnce(p); err != nil {
					return fmt.Errorf("call %d: %w", made+1, err)
				}
				left -= k.onceFuelLimit() - p.Fuel()
				if err := p.Observe(&list[made%len(list)]); err != nil {
					return fmt.Errorf("observation %d: %w", made+1, err)
				}
			}
			return nil
		}
		if err := run(firstRoundCalls); err != nil {
			return err
		}
		for round := range maxRounds {
			before := p.Pages()
			if err := run(firstRoundCalls << round); err != nil {
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

func (k *checker) checkFuel() (string, error) {
	limit := k.module.Limits().Fuel
	if k.desc.Kind == wasmhost.Judge {
		spent, err := k.maxJudgeFuel(limit)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%d units for the dearest response, of %d", spent, limit), checkFuelMargin(spent, limit)
	}
	if k.desc.Kind == wasmhost.Backoff {
		spent, err := k.maxBackoffFuel(limit)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%d units for the dearest wait, of %d", spent, limit), checkFuelMargin(spent, limit)
	}
	one, err := k.scorerFuel(1)
	if err != nil {
		return "", err
	}
	all, err := k.scorerFuel(abi.MinCandidates)
	if err != nil {
		return "", err
	}
	limit += abi.MinCandidates * wasmhost.FuelPerCandidate
	detail := fmt.Sprintf("%d units for one candidate, %.1f for each more; %d for %d, of %d", one,
		float64(all-one)/(abi.MinCandidates-1), all, abi.MinCandidates, limit)
	return detail, checkFuelMargin(all, limit)
}

// checkFuelMargin returns an error unless at least a tenth of the fuel is left.
func checkFuelMargin(spent, limit int64) error {
	if spent > limit/10*9 {
		return fmt.Errorf("a call takes %d of its %d units of fuel", spent, limit)
	}
	return nil
}

// scorerFuel returns the fuel that a call with n candidates uses. It measures the second call, because the module may
// have to reserve memory in the first call.
func (k *checker) scorerFuel(n int) (fuel int64, err error) {
	c := trial.PlausibleChoice(n)
	err = k.withInstance(func(p *wasmhost.Probe) error {
		for range 2 {
			if _, err := callScorer(p, c); err != nil {
				return err
			}
		}
		fuel = k.module.Limits().Fuel + int64(n)*wasmhost.FuelPerCandidate - p.Fuel()
		return nil
	})
	return fuel, err
}

func (k *checker) maxBackoffFuel(limit int64) (fuel int64, err error) {
	err = k.withInstance(func(p *wasmhost.Probe) error {
		for _, w := range trial.BackoffSamples() {
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

// checkTime checks that the most expensive calls that every module must serve take at most a quarter of the CPU
// timeout.
func (k *checker) checkTime() (string, error) {
	within := k.module.Limits().CallTimeout / 4
	detail := fmt.Sprintf("a call takes less than %v of CPU time, a quarter of its timeout", within)
	return detail, k.withInstance(func(p *wasmhost.Probe) error {
		if k.desc.Kind == wasmhost.Judge {
			for _, r := range trial.Responses() {
				err := k.module.CheckCall(func() error {
					_, err := p.Rule(r.ForJudge(p.ExcerptSpec()))
					return err
				})
				if err != nil {
					return fmt.Errorf("%s: %w", r.Name, err)
				}
			}
			return nil
		}
		if k.desc.Kind == wasmhost.Backoff {
			for _, w := range trial.BackoffSamples() {
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
		c := trial.PlausibleChoice(abi.MinCandidates)
		return k.module.CheckCall(func() error {
			_, err := callScorer(p, c)
			return err
		})
	})
}

// checkInstances checks that calls of one instance do not affect another instance.
func (k *checker) checkInstances() (string, error) {
	callAll := func(p *wasmhost.Probe) ([]float64, error) {
		switch k.desc.Kind {
		case wasmhost.Backoff:
			return callBackoffs(p, trial.BackoffSamples())
		case wasmhost.Judge:
			return callJudge(p, trial.Responses())
		}
		return callScorer(p, trial.PlausibleChoice(20))
	}
	var alone, besideBusy []float64
	err := k.withInstance(func(p *wasmhost.Probe) (err error) {
		alone, err = callAll(p)
		return err
	})
	if err != nil {
		return "", err
	}
	list := trial.Observations(200)
	err = k.withInstance(func(busy *wasmhost.Probe) error {
		return k.withInstance(func(p *wasmhost.Probe) (err error) {
			for i := range list {
				if err := busy.Observe(&list[i]); err != nil {
					return err
				}
				if _, err := callAll(busy); err != nil {
					return err
				}
			}
			besideBusy, err = callAll(p)
			return err
		})
	})
	if err != nil {
		return "", err
	}
	if i := firstDifference(alone, besideBusy); i >= 0 {
		return "", fmt.Errorf("result %d is %v alone, but %v if another instance is busy", i, alone[i], besideBusy[i])
	}
	return "the calls of one do not affect another", nil
}
