package api

import (
	"errors"
	"io"
	"io/fs"
	"mime/multipart"
	"os"
	"strings"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core/strictjson"
	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// pluginView is a plugin with where it is in use.
type pluginView struct {
	plugins.Info
	SpentSeconds float64  `json:"spent_seconds"` // in calls, all together
	UsedFor      []string `json:"used_for"`
}

func (s *Server) pluginOf(i plugins.Info) pluginView {
	cfg, v := s.Engine.Config(), pluginView{i, i.Spent.Seconds(), []string{}}
	for _, use := range []struct{ name, as string }{
		{cfg.FirstScorer, "first"}, {cfg.RetryScorer, "retry"}, {s.Engine.Policies().Current().BackoffStrategy, "backoff"},
	} {
		if use.name == i.Name {
			v.UsedFor = append(v.UsedFor, use.as)
		}
	}
	return v
}

func (s *Server) listPlugins(c *fiber.Ctx) error {
	out := []pluginView{}
	for _, i := range s.Plugins.List() {
		out = append(out, s.pluginOf(i))
	}
	return s.send(c, fiber.Map{"plugins": out})
}

func (s *Server) sendPlugin(c *fiber.Ctx, i plugins.Info, err error) error {
	var bad *wasmhost.CheckError
	if errors.As(err, &bad) {
		return refuse(422, "invalid_plugin", bad.Msg, nil)
	}
	if ofFiles(err) {
		return refuse(500, "not_kept", "the module cannot be written to [state] dir, so it is not loaded: "+err.Error(), nil)
	}
	if err != nil {
		return err
	}
	return s.send(c, s.pluginOf(i))
}

// ofFiles reports whether it is the file system that failed.
func ofFiles(err error) bool {
	var path *fs.PathError
	var link *os.LinkError
	return errors.As(err, &path) || errors.As(err, &link)
}

func (s *Server) getPlugin(c *fiber.Ctx) error {
	i, err := s.Plugins.Get(c.Params("name"))
	return s.sendPlugin(c, i, err)
}

// known refuses a form with a field that nobody reads: settings under another name,
// or sent as a file, would silently not be the plugin's.
func known(form *multipart.Form) error {
	for field, values := range form.Value {
		if field != "name" && field != "config" || len(values) > 1 {
			return refuse(400, "invalid_field", field+": the form takes module, name and config, each once", fiber.Map{"field": field})
		}
	}
	for field := range form.File {
		if field != "module" {
			return refuse(400, "invalid_field", field+" is sent as a file; the only file is module (curl: -F 'config=<FILE')", fiber.Map{"field": field})
		}
	}
	return nil
}

// upload reads a module: application/wasm, or multipart/form-data with the
// fields module, name and config (a JSON object).
func upload(c *fiber.Ctx) (name string, code []byte, config map[string]any, err error) {
	kind := strings.ToLower(c.Get(fiber.HeaderContentType))
	switch {
	case strings.HasPrefix(kind, "application/wasm"):
		return c.Query("name"), c.Body(), nil, nil
	case strings.HasPrefix(kind, "multipart/form-data"):
		form, err := c.MultipartForm()
		if err != nil || len(form.File["module"]) != 1 {
			return "", nil, nil, refuse(400, "invalid_request", "the form needs one file named module", nil)
		}
		if err := known(form); err != nil {
			return "", nil, nil, err
		}
		f, err := form.File["module"][0].Open()
		if err != nil {
			return "", nil, nil, err
		}
		defer f.Close()
		if code, err = io.ReadAll(f); err != nil {
			return "", nil, nil, err
		}
		if text := c.FormValue("config"); text != "" {
			v, err := strictjson.Parse([]byte(text))
			object, ok := v.(map[string]any)
			if err != nil || !ok {
				return "", nil, nil, refuse(400, "invalid_field", "config must be a JSON object", fiber.Map{"field": "config"})
			}
			config = object
		}
		return c.FormValue("name"), code, config, nil
	}
	return "", nil, nil, refuse(415, "unsupported_media_type", "the body must be application/wasm or multipart/form-data", nil)
}

func (s *Server) addPlugin(c *fiber.Ctx) error {
	name, code, config, err := upload(c)
	if err != nil {
		return err
	}
	if name == "" {
		return refuse(422, "invalid_plugin", "the plugin needs a name: the form's field name, or ?name=NAME behind the path", nil)
	}
	i, err := s.Plugins.Put(name, code, config, false)
	if err == nil {
		c.Status(201)
	}
	return s.sendPlugin(c, i, err)
}

func (s *Server) putPlugin(c *fiber.Ctx) error {
	_, code, config, err := upload(c)
	if err != nil {
		return err
	}
	i, err := s.Plugins.Put(c.Params("name"), code, config, true)
	return s.sendPlugin(c, i, err)
}

func (s *Server) deletePlugin(c *fiber.Ctx) error {
	s.uses.Lock()
	defer s.uses.Unlock()
	err := s.Plugins.Delete(c.Params("name"), func(name string) string {
		return strings.Join(s.pluginOf(plugins.Info{Name: name}).UsedFor, " and ")
	})
	if ofFiles(err) {
		return refuse(500, "not_removed", "the upload cannot be removed from [state] dir, so it stays: "+err.Error(), nil)
	}
	if err != nil {
		return err
	}
	return c.SendStatus(204)
}

func (s *Server) rollBackPlugin(c *fiber.Ctx) error {
	i, err := s.Plugins.RollBack(c.Params("name"))
	return s.sendPlugin(c, i, err)
}

func (s *Server) releasePlugin(c *fiber.Ctx) error {
	i, err := s.Plugins.Release(c.Params("name"))
	return s.sendPlugin(c, i, err)
}

// activatePlugin puts a plugin to use: for first attempts, retries or backoff.
func (s *Server) activatePlugin(c *fiber.Ctx) error {
	var in struct {
		For string `json:"for"`
	}
	if err := decode(c, &in); err != nil {
		return err
	}
	s.uses.Lock()
	defer s.uses.Unlock()
	name := c.Params("name")
	i, err := s.Plugins.Get(name)
	if err != nil {
		return err
	}
	if i.State == plugins.StateFailed {
		return refuse(422, "invalid_plugin", i.LastError, nil)
	}
	switch in.For {
	case "first":
		err = s.Engine.Activate(name, "")
	case "retry":
		err = s.Engine.Activate("", name)
	case "backoff":
		_, err = s.Engine.ActivateBackoff(name)
	default:
		return refuse(400, "invalid_field", "for must be first, retry or backoff", fiber.Map{"field": "for"})
	}
	if err != nil {
		return refuse(422, "invalid_plugin", err.Error(), nil)
	}
	return s.send(c, s.pluginOf(i))
}
