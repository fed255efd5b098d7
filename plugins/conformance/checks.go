package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/whirlpool-proxy/whirlpool/plugins/sample"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/meter"
	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
)

func (ck *checker) checkMeters() (string, error) {
	out, err := meter.Rewrite(ck.code, meter.Cost{})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d bytes with the fuel gauge", len(out)), nil
}

func (ck *checker) checkCompiles() (string, error) {
	m, err := ck.host.Compile(ck.code)
	if err != nil {
		return "", err
	}
	m.Configure(ck.config)
	ck.module = m
	return fmt.Sprintf("%d functions", ck.desc.Functions), nil
}

func (ck *checker) checkStarts() (string, error) {
	var p *wasmhost.Probe
	err := ck.module.CheckStart(func() (err error) {
		if p != nil {
			p.Close()
		}
		p, err = ck.module.Probe()
		return err
	})
	if p != nil {
		defer p.Close()
	}
	if err != nil {
		if len(ck.config) == 0 && isSettingsRefusal(err) {
			return "", fmt.Errorf("%w (it got no settings)", err)
		}
		return "", err
	}
	ck.learns = p.Learns()
	spent := ck.module.Limits().StartFuel - p.Fuel()
	return fmt.Sprintf("%d of %d units of start fuel, %d pages of memory", spent, ck.module.Limits().StartFuel,
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

// isMemoryFault reports whether err means that the export "reserve" returned no usable region. A module may do so to
// refuse large settings, but not to refuse a call.
func isMemoryFault(err error) bool {
	var f *wasmhost.Fault
	return errors.As(err, &f) && f.Reason == wasmhost.ReasonMemory
}

// withInstance calls f with a new instance.
func (ck *checker) withInstance(f func(*wasmhost.Probe) error) error {
	p, err := ck.module.Probe()
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
		return 0, fmt.Errorf("reserve(%d) returned %d, which is not a multiple of %d", size, at, abi.Alignment)
	}
	if _, err := p.Read(at, size); err != nil {
		return 0, fmt.Errorf("reserve(%d) returned %d: %w", size, at, err)
	}
	return at, nil
}

// minRegion is the size, in bytes, of the smallest region that the host asks for.
const minRegion = 4096

// largestRegion returns the size, in bytes, of the largest region that every module of this kind must be able to
// reserve.
func (ck *checker) largestRegion() uint32 {
	switch ck.desc.Kind {
	case wasmhost.Scorer:
		return scorerRegionSize(abi.MinCandidates)
	case wasmhost.Judge:
		return abi.JudgeRoom
	}
	return minRegion
}

func (ck *checker) checkReserve() (string, error) {
	repeated := int(ck.module.Limits().MemoryPages)*16 + 1000
	sizes := []uint32{minRegion}
	if most := ck.largestRegion(); most > minRegion {
		sizes = append(sizes, 2*minRegion, minRegion, 3*minRegion, most, minRegion, most)
	}
	err := ck.withInstance(func(p *wasmhost.Probe) error {
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
func (ck *checker) checkAnswers() (string, error) {
	err := ck.withInstance(func(p *wasmhost.Probe) error {
		at, err := callReserve(p, ck.largestRegion())
		if err != nil {
			return err
		}
		if err := p.Write(at, bytes.Repeat([]byte{0xff}, int(ck.largestRegion()))); err != nil {
			return err
		}
		return ck.callOnce(p)
	})
	return "a plausible call", err
}

// onceCandidates is the number of candidates in the call that callOnce makes.
const onceCandidates = 10

// onceFuelLimit returns the fuel limit of the call that callOnce makes.
func (ck *checker) onceFuelLimit() int64 {
	limit := ck.module.Limits().Fuel
	if ck.desc.Kind == wasmhost.Scorer {
		limit += onceCandidates * wasmhost.FuelPerCandidate
	}
	return limit
}

func (ck *checker) callOnce(p *wasmhost.Probe) error {
	switch ck.desc.Kind {
	case wasmhost.Backoff:
		w := sample.BackoffSamples()[0]
		_, err := p.Delay(&w.Request)
		return err
	case wasmhost.Judge:
		_, err := p.Rule(sample.Responses()[0].ForJudge(p.ExcerptSpec()))
		return err
	}
	_, err := callScorer(p, sample.PlausibleChoice(onceCandidates))
	return err
}

// checkReserveLarge checks that the export "reserve" refuses a size that the memory cannot have. A trap counts as a
// refusal, because in some languages a full heap always ends the program.
func (ck *checker) checkReserveLarge() (string, error) {
	size := (ck.module.Limits().MemoryPages + 1) << 16
	how := "with 0"
	err := ck.withInstance(func(p *wasmhost.Probe) error {
		at, err := p.Reserve(size)
		if err != nil {
			how = "by a trap"
			return nil
		}
		if _, err := p.Read(at, size); at != 0 && err != nil {
			return fmt.Errorf("reserve(%d) returned %d though memory has only %d pages", size, at, p.Pages())
		}
		if err := ck.callOnce(p); err != nil {
			return fmt.Errorf("after reserve(%d) was refused: %w", size, err)
		}
		return nil
	})
	return fmt.Sprintf("%d bytes, more than memory may have, are refused %s", size, how), err
}

func (ck *checker) checkConfigure() (string, error) {
	if !slices.Contains(ck.desc.Exports, abi.Configure) {
		return "", skipError("the module takes no settings: it exports no " + abi.Configure)
	}
	defer ck.module.Configure(ck.config)
	detail := ""
	for _, c := range []struct {
		name   string
		config map[string]any
	}{
		{"no settings", nil},
		{"an unknown setting", withSetting(ck.config, "no_such_setting", 1)},
		{"an empty value", withSetting(ck.config, "empty", "")},
		{"a long value", withSetting(ck.config, "long", string(bytes.Repeat([]byte("0123456789"), 1000)))},
		{"a key that is not ASCII", withSetting(ck.config, "schlüssel", "größe 1,5 €")},
		{"a hundred settings", withHundredSettings(ck.config)},
	} {
		ck.module.Configure(c.config)
		err := ck.withInstance(func(p *wasmhost.Probe) error { return nil })
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

// checkSameResults checks that a module that does not learn returns the same results for the same calls. It calls
// makeCalls twice with each of three instances. If a result differs, the error comes from differenceError, whose first
// parameter is the index of the result.
func (ck *checker) checkSameResults(what string, makeCalls func(*wasmhost.Probe) ([]float64, error),
	differenceError func(i int, first, later float64) error) (string, error) {
	if ck.learns {
		return "", skipError("a module that learns may answer otherwise the second time")
	}
	var first []float64
	for range 3 {
		err := ck.withInstance(func(p *wasmhost.Probe) error {
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
