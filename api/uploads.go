package api

import (
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/plugins"
)

// maxWait is the maximum time for which a response waits for the end of an upload's checks or of a submitted request.
// After this time, the client gets a 202. A client can ask for a shorter wait (Prefer: respond-async or wait=SECONDS,
// RFC 7240).
const maxWait = 30 * time.Second

// sha256Local is the key of Fiber's Locals that holds the SHA-256 of an uploaded module, for the log.
const sha256Local = "sha256"

// uploadView is the JSON of one upload.
type uploadView struct {
	ID         string      `json:"id"`
	Name       string      `json:"name"` // name of the plugin
	SHA256     string      `json:"sha256"`
	State      string      `json:"state"` // checking, done, failed
	StartedAt  time.Time   `json:"started_at"`
	FinishedAt time.Time   `json:"finished_at,omitzero"`
	Plugin     *pluginView `json:"plugin,omitempty"` // the plugin as it was at the end of the upload
	Error      *Error      `json:"error,omitempty"`  // set only for an upload that has failed
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
	return h.awaitUpload(c, u, err, success)
}

// awaitUpload waits for the end of an upload, and responds with the plugin and successStatus. If the upload takes
// longer than the client waits, awaitUpload responds with a 202. If the call that began the upload failed with err,
// awaitUpload returns the problem for err.
func (h *pluginHandler) awaitUpload(c *fiber.Ctx, u *plugins.Upload, err error, successStatus int) error {
	if err != nil {
		return pluginProblem(err)
	}
	c.Locals(sha256Local, u.Status().SHA256)
	setChangedNames(c, "upload", u.Status().Name)
	if !waitFor(u.Done(), preferredWait(c.Get("Prefer"))) {
		c.Set(fiber.HeaderLocation, "/api/v1/uploads/"+u.ID())
		c.Status(fiber.StatusAccepted)
		return send(c, h.viewOfUpload(u.Status()))
	}
	status := u.Status()
	if status.Err == nil {
		c.Status(successStatus)
	}
	return h.send(c, status.Plugin, status.Err)
}

// waitFor waits until done is closed, at most for d. It reports whether done is closed.
func waitFor(done <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
	}
	return false
}

// preferredWait returns the wait that a Prefer header field asks for, at most maxWait.
func preferredWait(prefer string) time.Duration {
	wait := maxWait
	for _, p := range strings.Split(prefer, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "respond-async":
			wait = 0
		case "wait":
			if n, err := strconv.ParseUint(strings.Trim(value, ` "`), 10, 31); err == nil {
				return min(time.Duration(n)*time.Second, maxWait) // even if respond-async is given
			}
		}
	}
	return wait
}

func (h *pluginHandler) getUpload(c *fiber.Ctx) error {
	u, err := h.registry.Upload(c.Params("id"))
	if err != nil {
		return err
	}
	return send(c, h.viewOfUpload(u.Status()))
}

func (h *pluginHandler) viewOfUpload(s plugins.UploadStatus) uploadView {
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

// uploadError converts err to the Error that is the body of an error response.
func uploadError(err error) *Error {
	if p := knownProblem(pluginProblem(err)); p != nil {
		return &p.body
	}
	return &internalProblem(fiber.StatusInternalServerError).body
}
