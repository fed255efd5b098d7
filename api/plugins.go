package api

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"mime/multipart"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/utils"

	"github.com/whirlpool-proxy/whirlpool/core/changes"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/rules"
	"github.com/whirlpool-proxy/whirlpool/core/strict"
	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/plugins/output"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// Plugins is the registry of plugins. Its errors wrap core.ErrNotFound, core.ErrConflict, plugins.ErrTooManyUploads,
// a *wasmhost.CheckError, a *plugins.Rejection or an error of the file system.
type Plugins interface {
	List() []plugins.Info
	Get(name string) (plugins.Info, error)
	// Submit begins to load a module, and returns before the module is loaded. If replace is set, the module replaces
	// the present module of the plugin. If config is nil, the settings do not change. If persist is not set, the upload
	// is lost at the end of the process.
	Submit(name string, code []byte, config map[string]any, replace, persist bool) (*plugins.Upload, error)
	// Configure begins to load an uploaded module again with changed settings, like Submit. A value of nil removes a
	// setting.
	Configure(name string, changes map[string]any, persist bool) (*plugins.Upload, error)
	Upload(id string) (*plugins.Upload, error)
	// Delete removes an uploaded plugin. The function inUse returns the place where the plugin is used, such as
	// "judge"; "" for none. If the plugin is used, Delete returns an error.
	Delete(name string, inUse func(name string) string) error
	RollBack(name string) (plugins.Info, error)
	Release(name string) (plugins.Info, error)
	// Log returns the plugin's last log lines, from the first line whose number is greater than afterNumber.
	Log(name string, afterNumber uint64) ([]output.Line, error)
	pluginTester
}

var _ Plugins = (*plugins.Registry)(nil)

// scorerEngine is the part of the engine that chooses plugins.
type scorerEngine interface {
	Scorers() (first, retry string) // names
	Judge() string                  // name
	HasBackoff(name string) bool
	Rules() *rules.Set // may name plugins; nil for none
}

// pluginUses reports and changes where plugins are used, such as for first attempts.
type pluginUses struct {
	mu       sync.Mutex // held during an activation and a deletion, so that a plugin in use is not deleted
	engine   scorerEngine
	policies Policies
	changes  Changes

	onActivation func(use, plugin string) // see Config; may be nil
}

// usesOf returns the places where a plugin is used, in the words of the API: "first", "retry", "backoff", "judge" and
// "rule".
func (u *pluginUses) usesOf(name string) []string {
	firstScorer, retryScorer := u.engine.Scorers()
	uses := []string{}
	if name == firstScorer {
		uses = append(uses, "first")
	}
	if name == retryScorer {
		uses = append(uses, "retry")
	}
	if name == u.policies.Current().BackoffStrategy {
		uses = append(uses, "backoff")
	}
	if name == u.engine.Judge() {
		uses = append(uses, "judge")
	}
	if ruleSet := u.engine.Rules(); ruleSet.UsesScorer(name) || ruleSet.UsesBackoff(name) {
		uses = append(uses, "rule")
	}
	return uses
}

// changePolicy changes the global policy. It locks the mutex mu, because the change may activate another backoff.
func (u *pluginUses) changePolicy(o retry.Override, persist bool) (retry.View, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.changes.ChangePolicy(o, persist)
}

// resetPolicy goes back to the policy of the configuration, which may have another backoff.
func (u *pluginUses) resetPolicy(persist bool) (retry.View, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.changes.ResetPolicy(persist)
}

// pluginHandler serves the endpoints under /plugins.
type pluginHandler struct {
	registry Plugins
	uses     *pluginUses
	policies Policies
	pool     Pool
	engine   describer
}

func (h *pluginHandler) routes(r fiber.Router) {
	r.Get("/plugins", h.list)
	r.Post("/plugins", h.add)
	r.Get("/plugins/:name", h.get)
	r.Put("/plugins/:name", h.replace)
	r.Patch("/plugins/:name", h.configure)
	r.Delete("/plugins/:name", h.remove)
	r.Post("/plugins/:name/test", h.test)
	r.Post("/plugins/:name/activate", h.activate)
	r.Post("/plugins/:name/rollback", h.rollBack)
	r.Post("/plugins/:name/release", h.release)
	r.Get("/plugins/:name/logs", h.getLog)
	r.Get("/uploads/:id", h.getUpload)
}

// pluginView is the JSON of one plugin.
type pluginView struct {
	Name               string            `json:"name"`
	Kind               string            `json:"kind"` // "" for an upload that cannot be loaded any more
	Source             string            `json:"source"`
	State              string            `json:"state"`
	Path               string            `json:"path,omitempty"`
	SHA256             string            `json:"sha256"`
	ABIVersion         int               `json:"abi_version"`
	Size               int               `json:"size"` // bytes
	Learns             bool              `json:"learns"`
	LoadedAt           time.Time         `json:"loaded_at"`
	Calls              uint64            `json:"calls"`
	Faults             uint64            `json:"faults"`
	FaultsByReason     map[string]uint64 `json:"faults_by_reason"`
	LastError          string            `json:"last_error,omitempty"`
	LastFaultAt        time.Time         `json:"last_fault_at,omitzero"`
	Quarantined        bool              `json:"quarantined"`
	CanRollBack        bool              `json:"can_roll_back"`
	HidesUpload        bool              `json:"hides_upload"`
	MissedObservations uint64            `json:"observations_missed"` // discarded, because the plugin was too slow
	SpentSeconds       float64           `json:"spent_seconds"`       // sum over all calls
	UsedFor            []string          `json:"used_for"`            // first, retry, backoff, judge, rule
	Settings           []settingView     `json:"settings,omitempty"`  // the settings that the module declares
	Fetch              *fetchView        `json:"fetch,omitempty"`     // set only for a plugin with a url
}

// fetchView is the JSON of the state of a fetch.
type fetchView struct {
	URL       string    `json:"url"`   // without its query
	State     string    `json:"state"` // fetching, waiting, done or failed
	Error     string    `json:"error,omitempty"`
	FetchedAt time.Time `json:"fetched_at,omitzero"`
	RetryAt   time.Time `json:"retry_at,omitzero"`
}

func viewOfFetch(s *plugins.FetchStatus) *fetchView {
	if s == nil {
		return nil
	}
	v := &fetchView{URL: s.URL, State: string(s.State), FetchedAt: s.FetchedAt, RetryAt: s.RetryAt}
	if s.Err != nil {
		v.Error = s.Err.Error()
	}
	return v
}

func (h *pluginHandler) view(i plugins.Info) pluginView {
	return pluginView{
		Name: i.Name, Kind: string(i.Kind), Source: i.Source, State: i.State, Path: i.Path, SHA256: i.SHA256,
		ABIVersion: i.ABIVersion, Size: i.Size, Learns: i.Learns, LoadedAt: i.LoadedAt, Calls: i.Calls,
		Faults: i.Faults, FaultsByReason: i.FaultsBy, LastError: i.LastError, LastFaultAt: i.LastFaultAt,
		Quarantined: i.Quarantined, CanRollBack: i.CanRollBack, HidesUpload: i.HidesUpload,
		MissedObservations: i.MissedObservations, SpentSeconds: i.TimeSpent.Seconds(), UsedFor: h.uses.usesOf(i.Name),
		Settings: viewsOfSettings(i.Settings), Fetch: viewOfFetch(i.Fetch),
	}
}

func (h *pluginHandler) send(c *fiber.Ctx, i plugins.Info, err error) error {
	if err != nil {
		return pluginProblem(err)
	}
	return send(c, h.view(i))
}

// pluginProblem returns the problem for an error of the registry.
func pluginProblem(err error) error {
	var checkError *wasmhost.CheckError
	var rejection *plugins.Rejection
	switch {
	case errors.As(err, &rejection):
		details := fiber.Map{"checks": failedChecks(rejection)}
		p := newProblem(fiber.StatusUnprocessableEntity, "invalid_plugin", rejection.Error())
		p.body.Details = details
		return p
	case errors.As(err, &checkError):
		return badPlugin(checkError.Msg)
	case errors.Is(err, plugins.ErrTooManyUploads):
		return newProblem(fiber.StatusTooManyRequests, "too_many_uploads", err.Error())
	case isFileError(err):
		return newProblem(fiber.StatusInternalServerError, "not_kept",
			"the module cannot be written to [state] dir, so it is not loaded: "+err.Error())
	}
	return err
}

func isFileError(err error) bool {
	var path *fs.PathError
	var link *os.LinkError
	return errors.As(err, &path) || errors.As(err, &link)
}

func (h *pluginHandler) list(c *fiber.Ctx) error { return send(c, fiber.Map{"plugins": h.views()}) }

func (h *pluginHandler) views() []pluginView {
	out := []pluginView{}
	for _, i := range h.registry.List() {
		out = append(out, h.view(i))
	}
	return out
}

func (h *pluginHandler) get(c *fiber.Ctx) error {
	i, err := h.registry.Get(c.Params("name"))
	return h.send(c, i, err)
}

func (h *pluginHandler) add(c *fiber.Ctx) error {
	up, err := readUpload(c)
	if err != nil {
		return err
	}
	if up.name == "" {
		return badPlugin("the plugin needs a name: the field name of the form, or ?name=NAME in the URL")
	}
	return h.submit(c, up, false)
}

func (h *pluginHandler) replace(c *fiber.Ctx) error {
	up, err := readUpload(c)
	if err != nil {
		return err
	}
	up.name = utils.CopyString(c.Params("name"))
	return h.submit(c, up, true)
}

func (h *pluginHandler) remove(c *fiber.Ctx) error {
	h.uses.mu.Lock()
	defer h.uses.mu.Unlock()
	inUse := func(name string) string { return strings.Join(h.uses.usesOf(name), " and ") }
	err := h.registry.Delete(c.Params("name"), inUse)
	if isFileError(err) {
		return newProblem(fiber.StatusInternalServerError, "not_removed",
			"the upload cannot be removed from [state] dir, so it stays: "+err.Error())
	}
	if err != nil {
		return err
	}
	return c.SendStatus(fiber.StatusNoContent)
}

func (h *pluginHandler) rollBack(c *fiber.Ctx) error {
	i, err := h.registry.RollBack(c.Params("name"))
	return h.send(c, i, err)
}

func (h *pluginHandler) release(c *fiber.Ctx) error {
	i, err := h.registry.Release(c.Params("name"))
	return h.send(c, i, err)
}

func (h *pluginHandler) activate(c *fiber.Ctx) error {
	var input struct {
		For string `json:"for"`
	}
	persist, err := decodeChange(c, &input)
	if err != nil {
		return err
	}
	h.uses.mu.Lock()
	defer h.uses.mu.Unlock()
	name := utils.CopyString(c.Params("name")) // a copy, because it is used after the handler has returned
	i, err := h.registry.Get(name)
	if err != nil {
		return err
	}
	if i.State == plugins.StateFailed {
		return badPlugin(i.LastError)
	}
	switch input.For {
	case changes.UseFirst, changes.UseRetry, changes.UseBackoff, changes.UseJudge:
	default:
		return badField("for", "for must be first, retry, backoff or judge"+strict.DidYouMean(input.For,
			[]string{changes.UseFirst, changes.UseRetry, changes.UseBackoff, changes.UseJudge}))
	}
	var notRecorded *changes.NotRecordedError
	switch err := h.uses.changes.Activate(input.For, name, persist); {
	case errors.As(err, &notRecorded):
		return err
	case err != nil:
		return badPlugin(err.Error())
	}
	setChangedNames(c, "plugin", utils.CopyString(input.For))
	if h.uses.onActivation != nil {
		h.uses.onActivation(input.For, name)
	}
	return send(c, h.view(i))
}

// upload is a module that a client has sent.
type upload struct {
	name   string
	code   []byte
	config map[string]any // nil if the client sent none
}

// readUpload reads a body of application/wasm, or of multipart/form-data with the fields module, name and config.
func readUpload(c *fiber.Ctx) (upload, error) {
	contentType := strings.ToLower(c.Get(fiber.HeaderContentType))
	switch {
	case strings.HasPrefix(contentType, "application/wasm"):
		return upload{name: utils.CopyString(c.Query("name")), code: bytes.Clone(c.Body())}, nil
	case strings.HasPrefix(contentType, "multipart/form-data"):
		return readForm(c)
	}
	return upload{}, badMediaType("the body must be application/wasm or multipart/form-data")
}

func readForm(c *fiber.Ctx) (up upload, err error) {
	form, err := c.MultipartForm()
	if err != nil || len(form.File["module"]) != 1 {
		return up, newProblem(fiber.StatusBadRequest, "invalid_request", "the form needs one file named module")
	}
	if err := checkFields(form); err != nil {
		return up, err
	}
	f, err := form.File["module"][0].Open()
	if err != nil {
		return up, err
	}
	defer f.Close()
	if up.code, err = io.ReadAll(f); err != nil {
		return up, err
	}
	up.name = utils.CopyString(c.FormValue("name"))
	if text := c.FormValue("config"); text != "" {
		v, err := strict.ParseJSON([]byte(text))
		object, ok := v.(map[string]any)
		if err != nil || !ok {
			return up, badField("config", "config must be a JSON object")
		}
		up.config = object
	}
	return up, nil
}

// checkFields returns an error if a form has an unknown field, a field twice, or a file other than module. Otherwise a
// misspelled field would be ignored.
func checkFields(form *multipart.Form) error {
	for field, values := range form.Value {
		if field != "name" && field != "config" || len(values) > 1 {
			return badField(field, field+": the form has the fields module, name and config, each at most once")
		}
	}
	for field := range form.File {
		if field != "module" {
			return badField(field, field+" is sent as a file; the only file is module (curl: -F 'config=<FILE')")
		}
	}
	return nil
}
