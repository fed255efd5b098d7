package sdktest

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/whirlpool-proxy/whirlpool/sdk/configure"
	"github.com/whirlpool-proxy/whirlpool/sdk/judge"
)

// Response returns a response with a status, a body and header fields. The parameter fields has names and values in
// turn. The names are in lower case.
func Response(status float64, body string, fields ...string) judge.Response {
	r := judge.Response{Now: 1.8e9, AttemptsLeft: 2, Status: status, Latency: 0.1, ContentLength: float64(len(body)),
		Whole: true, Body: []byte(body)}
	for i := 0; i+1 < len(fields); i += 2 {
		r.Fields = append(r.Fields, judge.Field{Name: fields[i], Value: []byte(fields[i+1])})
	}
	return r
}

// CheckJudge returns an error if a judge breaks a rule of the gateway. Each ruling must have a valid kind, and its Rest
// must be finite and at least 0. The same responses must lead to the same rulings, and the judge must not write to its
// input. The function fresh returns a new judge. If the judge has Configure, it is called without settings.
func CheckJudge(fresh func() judge.Judge) error {
	responses := []judge.Response{
		Response(200, "<html>a page</html>", "content-type", "text/html"), Response(200, ""), Response(204, ""),
		Response(301, "", "location", "/"), Response(403, "forbidden"), Response(404, "not found"),
		Response(429, "slow down", "retry-after", "120"), Response(503, "\x00\xff"), {},
		Response(200, string(bytes.Repeat([]byte("x"), 8192))),
	}
	return twice(func() ([]float64, error) {
		j := fresh()
		if c, ok := j.(configure.Configurer); ok {
			if err := configure.Apply(c, configure.New()); err != nil {
				return nil, fmt.Errorf("without settings: %w", err)
			}
		}
		var rulings []float64
		for i := range responses {
			r := responses[i]
			r.Body = slices.Clone(r.Body)
			got := j.Judge(&r)
			switch {
			case !bytes.Equal(r.Body, responses[i].Body):
				return nil, fmt.Errorf("response %d: it wrote to the body", i)
			case got.Kind != judge.Fine && got.Kind != judge.Retry && got.Kind != judge.OtherProxy &&
				got.Kind != judge.Banned && got.Kind != judge.TargetFault:
				return nil, fmt.Errorf("response %d: the kind of the ruling is %v; it must be 0 to 4", i, got.Kind)
			case !(got.Rest >= 0 && got.Rest <= 1e300):
				return nil, fmt.Errorf("response %d: the rest is %v; it must be finite and at least 0", i, got.Rest)
			}
			rulings = append(rulings, float64(got.Kind), got.Rest)
		}
		return rulings, nil
	})
}
