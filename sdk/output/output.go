// Package output writes log lines and metrics of a plugin. Log lines appear in GET /api/v1/plugins/NAME/logs and in the
// output of whirlpool plugin verify, metrics in /metrics. In builds other than WebAssembly, such as tests, the package
// writes nothing.
package output

import "github.com/whirlpool-proxy/whirlpool/sdk/abi"

// Debug writes a log line for debugging the plugin. The host keeps the last 100 lines of a plugin, and at
// most 20 lines a second.
func Debug(text string) { log(abi.LevelDebug, text) }

// Info writes a log line about a normal event.
func Info(text string) { log(abi.LevelInfo, text) }

// Warn writes a log line about a possible problem.
func Warn(text string) { log(abi.LevelWarn, text) }

// Error writes a log line about an error. If the host's call of the plugin fails, the error of that call contains the
// last such line, unless the plugin panicked.
func Error(text string) { log(abi.LevelError, text) }

// Count adds a value to a counter of the plugin. The value must be finite and not negative. /metrics shows the counter
// as whirlpool_plugin_metric{plugin,name}. A name has 1 to 64 letters, digits and underscores. A plugin has at most 20
// metrics.
func Count(name string, value float64) { metric(abi.MetricCounter, name, value) }

// Gauge sets a gauge of the plugin to a finite value. The rules for its name are in the comment on Count.
func Gauge(name string, value float64) { metric(abi.MetricGauge, name, value) }
