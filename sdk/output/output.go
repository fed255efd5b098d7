// Package output writes log lines and metrics of a plugin: to GET
// /api/v1/plugins/NAME/logs and the output of whirlpool plugin verify, and to
// /metrics. Outside WebAssembly, in tests, it writes nothing.
package output

import "github.com/whirlpool-proxy/whirlpool/sdk/abi"

// Debug writes a log line for those who look for an error in the plugin. The host
// keeps the last 100 lines of a plugin, and at most 20 a second.
func Debug(text string) { log(abi.LevelDebug, text) }

// Info writes a log line about something normal.
func Info(text string) { log(abi.LevelInfo, text) }

// Warn writes a log line about something that should be looked at.
func Warn(text string) { log(abi.LevelWarn, text) }

// Error writes a log line about something that went wrong. The last one of a call
// that fails is in its error.
func Error(text string) { log(abi.LevelError, text) }

// Count adds value, which is finite and not negative, to a counter of the plugin,
// on /metrics as whirlpool_plugin_metric{plugin,name}. A name has 1 to 64 letters,
// digits and _; a plugin has at most 20.
func Count(name string, value float64) { metric(abi.MetricCounter, name, value) }

// Gauge sets a gauge of the plugin to a finite value; for its name see Count.
func Gauge(name string, value float64) { metric(abi.MetricGauge, name, value) }
