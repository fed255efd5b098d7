// The plugin is a judge that uses every field.
package main

import (
	"strconv"

	"github.com/whirlpool-proxy/whirlpool/sdk/judge"
)

type rule struct{}

func (rule) Wants() judge.Wants {
	return judge.Wants{Body: 100, Fields: []string{"x", "server"}, Statuses: []judge.Range{{First: 200, Last: 599}}}
}

func (rule) Judge(r *judge.Response) judge.Ruling {
	if r.Status == 404 {
		return judge.Ruling{Kind: judge.TargetFault}
	}
	flag := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	number := 0.0
	if x := r.Field("x"); x != nil {
		number, _ = strconv.ParseFloat(string(x), 64)
	}
	return judge.Ruling{Kind: judge.Banned, Rest: r.Now + 2*r.Attempt + 3*r.AttemptsLeft + 4*r.Status + 5*r.Latency +
		6*r.HostHash + 7*r.IDHash + 8*r.ContentLength + 9*flag(r.Encoded) + 10*flag(r.Whole) +
		11*float64(len(r.Fields)) + 12*float64(len(r.Body)) + 13*number + 14*flag(r.Has("captcha"))}
}

func init() { judge.Register(rule{}) }

func main() {}
