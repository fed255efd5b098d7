package api

import (
	"time"

	"github.com/gofiber/fiber/v2"
)

// RunningConfig is the configuration in force.
type RunningConfig struct {
	Config  any          `json:"config"`  // the settings, in the form of the configuration file; secrets are masked
	File    string       `json:"file"`    // path of the configuration file as it was given at the start; "" for none
	Gateway string       `json:"gateway"` // the address that clients connect to
	Reload  ReloadStatus `json:"reload"`
}

// ReloadStatus is the result of the last reload of the configuration.
type ReloadStatus struct {
	OK      bool      `json:"ok"`
	At      time.Time `json:"at"`
	Faults  any       `json:"faults"`  // the errors in the file
	Restart []string  `json:"restart"` // changed keys that take effect at the next start
}

// configHandler serves the endpoints under /config.
type configHandler struct {
	running  func() RunningConfig
	reload   func() ReloadStatus
	policies Policies
}

func (h *configHandler) routes(r fiber.Router) {
	r.Get("/config", h.get)
	r.Post("/config/reload", h.postReload)
}

func (h *configHandler) get(c *fiber.Ctx) error {
	return send(c, struct {
		RunningConfig
		PolicySource string `json:"policy_source"`
	}{h.running(), h.policies.View().Source})
}

func (h *configHandler) postReload(c *fiber.Ctx) error {
	status := h.reload()
	if !status.OK {
		p := newProblem(fiber.StatusUnprocessableEntity, "invalid_config",
			"the configuration was not reloaded; the previous one stays in force")
		p.body.Details = status
		return p
	}
	return send(c, status)
}
