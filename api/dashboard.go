package api

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"path/filepath"

	"github.com/gofiber/fiber/v2"
)

//go:embed dashboard
var dashboard embed.FS

// pages are the files of the dashboard and of the API's description, by path. They need no key.
var pages = dashboardPages()

func dashboardPages() map[string]string {
	files, err := dashboard.ReadDir("dashboard")
	if err != nil {
		panic(err) // the folder is part of the binary
	}
	m := map[string]string{"/": "index.html", "/docs": "docs.html"}
	for _, f := range files {
		m["/"+f.Name()] = f.Name()
	}
	return m
}

// pagePolicy permits the dashboard only to load its own files and to use the API.
const pagePolicy = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; " +
	"form-action 'none'; base-uri 'none'; frame-ancestors 'none'"

// workerVersion is a hash of the files of the SharedWorker. It is a part of the worker's name, so that a page of a
// newer gateway starts a new worker instead of using the old one that the browser still runs.
var workerVersion = hashOf("worker.js", "stream.js")

func hashOf(files ...string) []byte {
	h := sha256.New()
	for _, file := range files {
		content, err := dashboard.ReadFile("dashboard/" + file)
		if err != nil {
			panic(err) // the file is part of the binary
		}
		h.Write(content)
	}
	return hex.AppendEncode(nil, h.Sum(nil)[:8])
}

func sendPage(c *fiber.Ctx, file string) error {
	content, err := dashboard.ReadFile("dashboard/" + file)
	if err != nil {
		return err
	}
	if file == "live.js" {
		content = bytes.Replace(content, []byte("VERSION"), workerVersion, 1)
	}
	c.Type(filepath.Ext(file), "utf-8")
	c.Set(fiber.HeaderContentSecurityPolicy, pagePolicy)
	return c.Send(content)
}
