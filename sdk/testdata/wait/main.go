// The plugin is a backoff that writes log lines and metrics, and declares a setting, as wait.c does.
package main

import (
	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
	"github.com/whirlpool-proxy/whirlpool/sdk/backoff"
	"github.com/whirlpool-proxy/whirlpool/sdk/output"
	"github.com/whirlpool-proxy/whirlpool/sdk/settings"
)

type wait struct{}

func (wait) Delay(r *abi.BackoffRequest) float64 {
	switch r.Retry {
	case -1:
		println("to the standard error")
		output.Info("waiting")
		output.Count("waits_total", 2)
		output.Gauge("level", 0.5)
	case -2:
		println("to the standard error")
		panic("no spoon")
	}
	return 1
}

func init() {
	backoff.Register(wait{})
	settings.State(
		settings.Number("margin", 0, 1, 0.25, "how near is equal"),
		settings.Integer("steps", 1, 9, 3, ""), settings.Boolean("eager", true, ""),
		settings.Text("mode", "fast", "", "fast", "slow"),
	)
}

func main() {}
