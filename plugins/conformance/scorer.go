package conformance

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/whirlpool-proxy/whirlpool/plugins/sample"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
)

// scorerRegionSize returns the number of bytes that the host reserves for a call of a scorer with n candidates, a
// multiple of 4096.
func scorerRegionSize(n int) uint32 {
	return uint32(abi.RankRequestSize+n*(abi.CandidateSize+abi.ScoreSize)+4095) &^ 4095
}

// callScorer calls the export "score". It returns an error for results that would be plugin faults in the gateway.
func callScorer(p *wasmhost.Probe, c *sample.Choice) ([]float64, error) {
	scores := make([]float64, c.Len())
	if err := p.Score(c, scores); err != nil {
		return nil, fmt.Errorf("%s: %w", c.Name, err)
	}
	return scores, nil
}

func (ck *checker) checkCounts() (string, error) {
	err := ck.withInstance(func(p *wasmhost.Probe) error {
		for _, n := range []int{1, 2, 255, abi.MinCandidates, 1} {
			if _, err := callScorer(p, sample.PlausibleChoice(n)); err != nil {
				return err
			}
		}
		return nil
	})
	return fmt.Sprintf("1, 2, 255 and %d candidates", abi.MinCandidates), err
}

// checkMany calls the export "score" with more candidates than a scorer must accept. The module may refuse to reserve
// this much memory, or use up the fuel or the CPU time. It must not trap or return invalid scores.
func (ck *checker) checkMany() (string, error) {
	const n = 4096
	detail := fmt.Sprintf("%d candidates", n)
	err := ck.withInstance(func(p *wasmhost.Probe) error {
		at, err := p.Reserve(scorerRegionSize(n))
		if err != nil || at == 0 {
			detail = fmt.Sprintf("%d candidates are refused: it serves pools up to the default max_candidates", n)
			return nil
		}
		_, err = callScorer(p, sample.PlausibleChoice(n))
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

func (ck *checker) checkFinite() (string, error) {
	edges := sample.ExtremeChoices()
	err := ck.withInstance(func(p *wasmhost.Probe) error {
		for _, c := range edges {
			if _, err := callScorer(p, c); err != nil {
				return err
			}
		}
		return nil
	})
	return fmt.Sprintf("%d choices at the edge of what happens", len(edges)), err
}

func (ck *checker) checkDeterministic() (string, error) {
	c := sample.PlausibleChoice(50)
	return ck.checkSameResults("scores", func(p *wasmhost.Probe) ([]float64, error) { return callScorer(p, c) },
		func(i int, first, then float64) error {
			return fmt.Errorf("for the same request, the score of candidate %d was %v and then %v", i, first, then)
		})
}

// checkOutside checks that a scorer neither uses nor changes the bytes around the host's records. It makes the same
// call several times, each time with different bytes around the records.
func (ck *checker) checkOutside() (string, error) {
	const n, guard = 4, 256 // n is the number of candidates, guard the number of bytes on each side
	c := sample.PlausibleChoice(n)
	var first []float64
	for _, filler := range []byte{0x00, 0x3f, 0xff} { // eight such bytes as an f64: 0, about 5e-4, NaN
		err := ck.withInstance(func(p *wasmhost.Probe) error {
			scores, err := scoreSurrounded(p, c, guard, filler)
			if first == nil {
				first = scores
			}
			if err != nil {
				return err
			}
			if i := firstDifference(first, scores); i >= 0 && !ck.learns {
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

func scoreSurrounded(p *wasmhost.Probe, c *sample.Choice, guard uint32, filler byte) ([]float64, error) {
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
