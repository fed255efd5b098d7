package client

import (
	"bytes"
	"context"
	"net/url"
	"strconv"
	"time"
)

// Plugin is a plugin of the gateway.
type Plugin struct {
	Name           string            `json:"name"`
	Kind           string            `json:"kind"`
	Source         string            `json:"source"` // builtin, config or api
	State          string            `json:"state"`
	Path           string            `json:"path"`
	SHA256         string            `json:"sha256"`
	ABIVersion     int               `json:"abi_version"`
	Size           int               `json:"size"`
	Learns         bool              `json:"learns"`
	LoadedAt       *time.Time        `json:"loaded_at"`
	Calls          uint64            `json:"calls"`
	Spent          Seconds           `json:"spent_seconds"`
	Faults         uint64            `json:"faults"`
	FaultsByReason map[string]uint64 `json:"faults_by_reason"`
	LastError      string            `json:"last_error"`
	LastFaultAt    *time.Time        `json:"last_fault_at"`
	Quarantined    bool              `json:"quarantined"`
	CanRollBack    bool              `json:"can_roll_back"`
	HidesUpload    bool              `json:"hides_upload"`
	UsedFor        []string          `json:"used_for"` // first, retry, backoff, judge
	Missed         uint64            `json:"observations_missed"`
	Fetch          *PluginFetch      `json:"fetch"` // nil without a URL
	Settings       []PluginSetting   `json:"settings"`
}

// PluginFetch is the state of the fetch of a plugin.
type PluginFetch struct {
	URL       string     `json:"url"`
	State     string     `json:"state"`
	Error     string     `json:"error"`
	FetchedAt *time.Time `json:"fetched_at"`
	RetryAt   *time.Time `json:"retry_at"`
}

// PluginSetting is a setting that a plugin declares.
type PluginSetting struct {
	Name    string   `json:"name"`
	Type    string   `json:"type"`
	Min     *float64 `json:"min"`
	Max     *float64 `json:"max"`
	Values  []string `json:"values"`
	Default string   `json:"default"`
	Text    string   `json:"text"`
	Value   string   `json:"value"`
}

// Plugins lists the plugins.
func (c *Client) Plugins(ctx context.Context) ([]Plugin, error) {
	var v struct {
		Plugins []Plugin `json:"plugins"`
	}
	err := c.Do(ctx, "GET", "/plugins", nil, nil, &v)
	return v.Plugins, err
}

func pluginPath(name string) string { return "/plugins/" + url.PathEscape(name) }

// Plugin returns one plugin.
func (c *Client) Plugin(ctx context.Context, name string) (p *Plugin, err error) {
	return p, c.Do(ctx, "GET", pluginPath(name), nil, nil, &p)
}

// AddPlugin uploads a module as a new plugin.
func (c *Client) AddPlugin(ctx context.Context, name string, module []byte) (*Plugin, error) {
	return c.upload(ctx, "POST", "/plugins", url.Values{"name": {name}}, module)
}

// ReplacePlugin uploads a module that replaces the module of a plugin.
func (c *Client) ReplacePlugin(ctx context.Context, name string, module []byte) (*Plugin, error) {
	return c.upload(ctx, "PUT", pluginPath(name), nil, module)
}

func (c *Client) upload(ctx context.Context, method, path string, q url.Values, module []byte) (p *Plugin, err error) {
	response, err := c.sendBody(ctx, method, path, q, bytes.NewReader(module), "application/wasm")
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return p, c.decodeBody(response, &p)
}

// ConfigurePlugin changes settings of an uploaded plugin. The value nil stands for the default of a setting.
func (c *Client) ConfigurePlugin(ctx context.Context, name string, settings map[string]any) (p *Plugin, err error) {
	return p, c.Do(ctx, "PATCH", pluginPath(name), nil, map[string]any{"config": settings}, &p)
}

// DeletePlugin deletes an uploaded plugin.
func (c *Client) DeletePlugin(ctx context.Context, name string) error {
	return c.Do(ctx, "DELETE", pluginPath(name), nil, nil, nil)
}

// ActivatePlugin uses a plugin as first, retry, backoff or judge.
func (c *Client) ActivatePlugin(ctx context.Context, name, use string) (p *Plugin, err error) {
	return p, c.Do(ctx, "POST", pluginPath(name)+"/activate", nil, map[string]any{"for": use}, &p)
}

// RollBackPlugin returns to the module before the last upload.
func (c *Client) RollBackPlugin(ctx context.Context, name string) (p *Plugin, err error) {
	return p, c.Do(ctx, "POST", pluginPath(name)+"/rollback", nil, nil, &p)
}

// ReleasePlugin ends the quarantine of a plugin.
func (c *Client) ReleasePlugin(ctx context.Context, name string) (p *Plugin, err error) {
	return p, c.Do(ctx, "POST", pluginPath(name)+"/release", nil, nil, &p)
}

// LogLine is a line that a plugin has logged.
type LogLine struct {
	Number uint64    `json:"number"`
	At     time.Time `json:"at"`
	Level  string    `json:"level"`
	Text   string    `json:"text"`
}

// PluginLog returns the kept log lines of a plugin after the line with the given number.
func (c *Client) PluginLog(ctx context.Context, name string, after uint64) ([]LogLine, error) {
	q := url.Values{"after": {strconv.FormatUint(after, 10)}}
	var v struct {
		Lines []LogLine `json:"lines"`
	}
	err := c.Do(ctx, "GET", pluginPath(name)+"/logs", q, nil, &v)
	return v.Lines, err
}

// PluginTrial has the inputs of a trial call of a plugin. For the fields see openapi.yaml.
type PluginTrial struct {
	Request    map[string]float64   `json:"request,omitempty"`
	Candidates []map[string]float64 `json:"candidates,omitempty"`
	Fields     map[string]string    `json:"fields,omitempty"`
	Body       string               `json:"body,omitempty"`
}

// PluginTrialResult has the results of a trial call.
type PluginTrialResult struct {
	Scores []struct {
		Candidate int      `json:"candidate"`
		ProxyID   string   `json:"proxy_id"`
		Score     *float64 `json:"score"`
	} `json:"scores"`
	Delays  []Seconds `json:"delays"`
	Rulings []struct {
		Response string  `json:"response"`
		Ruling   string  `json:"ruling"`
		Rest     Seconds `json:"rest_seconds"`
	} `json:"rulings"`
	Log []LogLine `json:"log"`
}

// TestPlugin calls a plugin with the given inputs. The call changes nothing.
func (c *Client) TestPlugin(ctx context.Context, name string, in PluginTrial) (r *PluginTrialResult, err error) {
	return r, c.Do(ctx, "POST", pluginPath(name)+"/test", nil, in, &r)
}

// Upload is the state of an upload that runs in the background (Prefer: respond-async).
type Upload struct {
	ID         string     `json:"id"`
	Name       string     `json:"name"`
	SHA256     string     `json:"sha256"`
	State      string     `json:"state"`
	StartedAt  time.Time  `json:"started_at"`
	FinishedAt *time.Time `json:"finished_at"`
	Plugin     *Plugin    `json:"plugin"`
	Error      *Error     `json:"error"`
}

// Upload returns the state of an upload.
func (c *Client) Upload(ctx context.Context, id string) (u *Upload, err error) {
	return u, c.Do(ctx, "GET", "/uploads/"+url.PathEscape(id), nil, nil, &u)
}
