package api

import (
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/plugins"
)

// uploadWait is the longest time that the response to an upload waits for the checks. A client can ask for less
// (Prefer: respond-async or wait=SECONDS, RFC 7240). If the checks take longer than the wait, the response is a 202
// that names the upload.
const uploadWait = 30 * time.Second

// auditSHA256 is the key of Fiber's Locals that holds the SHA-256 of an uploaded module, for the log.
const auditSHA256 = "sha256"

// uploadView is the JSON of one upload.
type uploadView struct {
	ID         string      `json:"id"`
	Name       string      `json:"name"` // name of the plugin
	SHA256     string      `json:"sha256"`
	State      string      `json:"state"` // checking, done, failed
	StartedAt  time.Time   `json:"started_at"`
	FinishedAt time.Time   `json:"finished_at,omitzero"`
	Plugin     *pluginView `json:"plugin,omitempty"` // the plugin as it was at the end of the upload
	Error      *Error      `json:"error,omitempty"`  // only for an upload that has failed
}

// failedCheck is the JSON of a check that a module has failed.
type failedCheck struct {
	Name   string `json:"name"` // the name that `whirlpool plugin verify` prints
	Detail string `json:"detail"`
	Fix    string `json:"fix"`
}

func failedChecks(r *plugins.Rejection) []failedCheck {
	checks := make([]failedCheck, len(r.Failed))
	for i, f := range r.Failed {
		checks[i] = failedCheck(f)
	}
	return checks
}

// submit uploads a module.
func (h *pluginHandler) submit(c *fiber.Ctx, up upload, replace bool) error {
	persist, err := queryBool(c, persistField, true)
	if err != nil {
		return err
	}
	u, err := h.registry.Submit(up.name, up.code, up.config, replace, persist)
	success := fiber.StatusCreated
	if replace {
		success = fiber.StatusOK
	}
	return h.await(c, u, err, success)
}

// await waits for the end of an upload, and responds with the plugin. The parameter success is the status of this
// response. If the upload takes longer than the client waits, await responds with a 202. The parameter err is the error
// of the call that began the upload.
func (h *pluginHandler) await(c *fiber.Ctx, u *plugins.Upload, err error, success int) error {
	if err != nil {
		return pluginProblem(err)
	}
	c.Locals(auditSHA256, u.Status().SHA256)
	if !waitFor(u, preferredWait(c.Get("Prefer"))) {
		c.Set(fiber.HeaderLocation, "/api/v1/uploads/"+u.ID())
		c.Status(fiber.StatusAccepted)
		return send(c, h.viewUpload(u.Status()))
	}
	status := u.Status()
	if status.Err == nil {
		c.Status(success)
	}
	return h.send(c, status.Plugin, status.Err)
}

// waitFor waits for the end of the upload, but at most for d. It reports whether the upload has
// ended.
func waitFor(u *plugins.Upload, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-u.Done():
		return true
	case <-timer.C:
	}
	return false
}

// preferredWait returns the wait that a Prefer header field asks for, at most uploadWait.
func preferredWait(prefer string) time.Duration {
	wait := uploadWait
	for _, p := range strings.Split(prefer, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "respond-async":
			wait = 0
		case "wait":
			if n, err := strconv.ParseUint(strings.Trim(value, ` "`), 10, 31); err == nil {
				return min(time.Duration(n)*time.Second, uploadWait) // even if respond-async is given
			}
		}
	}
	return wait
}

// upload responds with the state of an upload.
func (h *pluginHandler) upload(c *fiber.Ctx) error {
	u, err := h.registry.Upload(c.Params("id"))
	if err != nil {
		return err
	}
	return send(c, h.viewUpload(u.Status()))
}

func (h *pluginHandler) viewUpload(s plugins.UploadStatus) uploadView {
	v := uploadView{
		ID: s.ID, Name: s.Name, SHA256: s.SHA256, State: string(s.State),
		StartedAt: s.StartedAt, FinishedAt: s.FinishedAt,
	}
	switch s.State {
	case plugins.UploadDone:
		view := h.view(s.Plugin)
		v.Plugin = &view
	case plugins.UploadFailed:
		v.Error = uploadError(s.Err)
	}
	return v
}

// uploadError returns err in the form that the body of an error response has.
func uploadError(err error) *Error {
	if p := knownProblem(pluginProblem(err)); p != nil {
		return &p.body
	}
	return &internal(fiber.StatusInternalServerError).body
}
