package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// prometheus is a running Prometheus that scrapes a gateway.
type prometheus struct {
	t       *testing.T
	address string
}

// startPrometheus starts Debian's Prometheus with the alerts of docs/, which scrapes the gateway every second.
func startPrometheus(t *testing.T, w *whirl) *prometheus {
	alerts, err := filepath.Abs("../docs/alerts.yaml")
	require.NoError(t, err)
	p := &prometheus{t, freePort(t)}
	file := filepath.Join(w.dir, "prometheus.yml")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `
global: { scrape_interval: 1s, evaluation_interval: 1s }
rule_files: [%q]
scrape_configs:
  - { job_name: whirlpool, static_configs: [{ targets: [%q] }] }
`, alerts, w.api), 0o600))
	out, err := exec.Command("promtool", "check", "config", file).CombinedOutput()
	require.NoError(t, err, "%s", out)
	cmd := exec.Command("prometheus", "--config.file="+file, "--storage.tsdb.path="+w.dir+"/tsdb",
		"--web.listen-address="+p.address, "--enable-feature=exemplar-storage", "--log.level=error")
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return p
}

// ask sends a request to the API of Prometheus and returns data of the response; nil if Prometheus is not ready or
// refuses it.
func (p *prometheus) ask(path string, parameters ...string) (data json.RawMessage, refused string) {
	query := url.Values{}
	for i := 0; i < len(parameters); i += 2 {
		query.Set(parameters[i], parameters[i+1])
	}
	response, err := http.Get("http://" + p.address + "/api/v1/" + path + "?" + query.Encode())
	if err != nil {
		return nil, err.Error()
	}
	defer response.Body.Close()
	var body struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.NewDecoder(response.Body).Decode(&body); err != nil {
		return nil, err.Error()
	}
	return body.Data, body.Error
}

// names returns the names of all metrics.
func (p *prometheus) names() (list []string) {
	data, refused := p.ask("label/__name__/values")
	require.Empty(p.t, refused)
	require.NoError(p.t, json.Unmarshal(data, &list))
	return list
}

// series returns the number of series of an instant query.
func (p *prometheus) series(expression string) (n int, refused string) {
	data, refused := p.ask("query", "query", expression)
	var result struct{ Result []json.RawMessage }
	if refused == "" {
		require.NoError(p.t, json.Unmarshal(data, &result))
	}
	return len(result.Result), refused
}

// dashboardExpressions returns the expressions of docs/grafana.json, with values for the variables of Grafana.
func dashboardExpressions(t *testing.T) (list []string) {
	text, err := os.ReadFile("../docs/grafana.json")
	require.NoError(t, err)
	var dashboard struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	require.NoError(t, json.Unmarshal(text, &dashboard))
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			list = append(list, strings.NewReplacer("$__rate_interval", "1m", "$instance", ".*", "$proxy", ".*").
				Replace(target.Expr))
		}
	}
	require.Greater(t, len(list), 20)
	return list
}

// alertExpressions returns the expressions of docs/alerts.yaml by the names of the alerts.
func alertExpressions(t *testing.T) map[string]string {
	text, err := os.ReadFile("../docs/alerts.yaml")
	require.NoError(t, err)
	var file struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	require.NoError(t, yaml.Unmarshal(text, &file))
	list := map[string]string{}
	for _, group := range file.Groups {
		for _, rule := range group.Rules {
			list[rule.Alert] = rule.Expr
		}
	}
	require.Greater(t, len(list), 10)
	return list
}

// mayBeEmpty are the expressions of the dashboard that have no series on the lab: nothing has failed, or no plugin
// has been called.
var mayBeEmpty = regexp.MustCompile(`plugin_calls_total`)

var metricName = regexp.MustCompile(`\b(?:whirlpool|process|go)_\w+`)

// Each expression of the dashboard has series in a real Prometheus that scrapes the lab's gateway. Each expression of
// the alerts is accepted, and names metrics that exist. docs/metrics.md lists all metrics, with their labels.
func TestDashboardAndAlertsInPrometheus(t *testing.T) {
	w := startDemo(t)
	p := startPrometheus(t, w)
	eventually(t, "Prometheus has the attempts of three scrapes", func() bool {
		n, refused := p.series(`count_over_time(whirlpool_proxy_attempts_total{proxy_id="alpha"}[1m]) >= 3`)
		return refused == "" && n > 0
	})
	names := p.names()
	for _, expression := range dashboardExpressions(t) {
		_, refused := p.series(expression)
		require.Empty(t, refused, expression)
		eventually(t, "series of "+expression, func() bool {
			n, _ := p.series(expression)
			return n > 0 || mayBeEmpty.MatchString(expression)
		})
		eventually(t, "the metrics of "+expression, func() bool {
			names = p.names()
			return !slices.ContainsFunc(metricName.FindAllString(expression, -1), func(name string) bool {
				return !slices.Contains(names, name)
			})
		})
	}
	for alert, expression := range alertExpressions(t) {
		_, refused := p.series(expression)
		require.Empty(t, refused, alert)
		for _, name := range metricName.FindAllString(expression, -1) {
			require.Contains(t, names, name, alert)
		}
	}
	data, refused := p.ask("query_exemplars", "query", "whirlpool_request_duration_seconds_bucket", "start", "0", "end",
		"9999999999")
	require.Empty(t, refused)
	require.Contains(t, string(data), `"request_id"`)
	p.requireDocumented(names)
}

// requireDocumented compares the metrics that Prometheus has with docs/metrics.md.
func (p *prometheus) requireDocumented(names []string) {
	page, err := os.ReadFile("../docs/metrics.md")
	require.NoError(p.t, err)
	rows := map[string]string{} // labels by name
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| \\w+ \\| ([^|]*) \\|").FindAllStringSubmatch(
		string(page), -1) {
		rows[row[1]] = row[2]
	}
	suffix := regexp.MustCompile(`_(bucket|sum|count)$`)
	for _, name := range names {
		short, own := strings.CutPrefix(name, "whirlpool_")
		if !own {
			continue
		}
		labels, listed := rows[short]
		if !listed {
			labels, listed = rows[suffix.ReplaceAllString(short, "")]
		}
		require.True(p.t, listed, "docs/metrics.md has no %s", short)
		data, _ := p.ask("series", "match[]", name)
		var series []map[string]string
		require.NoError(p.t, json.Unmarshal(data, &series))
		for label := range series[0] {
			switch label {
			case "__name__", "instance", "job", "le", "quantile":
			default:
				require.Contains(p.t, labels, "`"+label+"`", "docs/metrics.md: the labels of %s", short)
			}
		}
	}
}
