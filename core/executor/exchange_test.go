package executor

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

func TestAnEndingIsClosedOnce(outer *testing.T) {
	rapid.Check(outer, func(t *rapid.T) {
		synctest.Test(outer, func(*testing.T) {
			b := start(t, 2, nil)
			x := exchange(t, nil)
			x.reset()
			requests, attempts, inFlight := 0, 0, int64(0)
			var end Ending[string]
			open := false
			held := func() (n int64) {
				for _, u := range b.pool.Snapshot().All {
					n += u.InFlight()
				}
				return n
			}
			relayed := func() verdict.RelayEnd {
				return rapid.SampledFrom([]verdict.RelayEnd{{}, {BodyErr: io.ErrUnexpectedEOF},
					{ClientLeft: true}}).Draw(t, "relayed")
			}
			closed := func() { open, inFlight = false, 0 }
			t.Repeat(map[string]func(*rapid.T){
				"run": func(t *rapid.T) {
					x.Request.WantsTunnel = rapid.Bool().Draw(t, "tunnel")
					x.Policy.MaxAttempts = 1
					status := rapid.SampledFrom([]int{0, 200, 503}).Draw(t, "status")
					end = Run(context.Background(), b.Executor, &x.Exchange, &x.Request,
						&tries{f: func(context.Context, *Attempt) verdict.Facts {
							if status == 0 {
								return verdict.Facts{Err: &verdict.Error{Cause: verdict.ConnectionClosed,
									Err: errors.New("reset")}}
							}
							return verdict.Facts{Status: status}
						}})
					set := 0
					for _, is := range []bool{end.Relay != nil, end.Tunnel != nil, end.Refusal != nil} {
						if is {
							set++
						}
					}
					require.Equal(t, 1, set, "it has one ending")
					open, inFlight = true, 0
					if status == 200 && end.Refusal == nil {
						inFlight = 1
					}
					if end.Tunnel != nil {
						requests++
					}
					if end.Refusal == nil && (status != 200 || end.Tunnel != nil) || status == 0 &&
						x.Result().Attempts == 1 {
						attempts++
					}
				},
				"relay": func(*rapid.T) {
					if end.Relay != nil && open {
						if inFlight == 1 {
							attempts++
						}
						requests++
						closed()
					}
					x.relay.Close(200, relayed(), time.Now())
				},
				"tunnel": func(*rapid.T) {
					if end.Tunnel != nil {
						closed()
					}
					x.tunnel.Close(verdict.TunnelEnd{}, time.Now())
				},
				"proven": func(*rapid.T) { x.tunnel.SettleSuccess() },
				"refusal": func(*rapid.T) {
					if end.Refusal != nil && open {
						requests++
						closed()
					}
					x.refusal.Close(502, time.Now())
				},
				"abandon": func(*rapid.T) {
					x.Abandon()
					closed()
				},
				"": func(*rapid.T) {
					require.Len(t, b.rec.Requests(), requests)
					require.Len(t, b.rec.Attempts(), attempts)
					require.Equal(t, inFlight, held())
				},
			})
		})
	})
}
