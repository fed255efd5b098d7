package api

import "github.com/gofiber/fiber/v2"

// remove serves DELETE /proxies/:id. With drain=true in the query, the proxy stays in the list until its last
// attempt has ended.
func (h *proxyHandler) remove(c *fiber.Ctx) error {
	u, err := proxyByID(c, h.pool)
	if err != nil {
		return err
	}
	drain, err := queryBool(c, "drain", false)
	if err != nil {
		return err
	}
	persist, err := queryBool(c, persistField, true)
	if err != nil {
		return err
	}
	if err := h.changes.RemoveProxy(u.ID(), drain, persist); err != nil {
		return err
	}
	return c.SendStatus(fiber.StatusNoContent)
}

// restore serves POST /proxies/:id/restore. It undoes a removal.
func (h *proxyHandler) restore(c *fiber.Ctx) error {
	id, err := pathParam(c, "id")
	if err != nil {
		return err
	}
	persist, err := queryBool(c, persistField, true)
	if err != nil {
		return err
	}
	u, err := h.changes.RestoreProxy(id, persist)
	if err != nil {
		return proxyProblem(err)
	}
	h.metrics.ForgetRecentAttempts(id) // the attempts before the removal, which do not concern the new proxy
	return send(c, h.view(u))
}
