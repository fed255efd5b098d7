// Package scaffold writes the folder of a new plugin, with source, test, build script and SDK. The new plugin
// can be built, and passes its test, without changes. `whirlpool plugin new` uses it.
package scaffold

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"github.com/whirlpool-proxy/whirlpool/core/strict"
	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	"github.com/whirlpool-proxy/whirlpool/sdk"
)

// The folder "templates" has a README and a folder for each language. In the folder of a language, the folder "all" has
// the files of every plugin, and each other folder has the files of one kind of plugins.
//
//go:embed all:templates
var templates embed.FS

// language has the properties in which the languages differ.
type language struct {
	Language                string // name of the language
	Source                  string // the file with the plugin's code
	Test                    string
	BuildTools              string // tools that the build needs
	Hooks                   string // file of the SDK that describes the optional functions
	sdk                     embed.FS
	sdkFolder, targetFolder string // folder of the SDK in sdk, and in the new folder
}

var languages = map[string]language{
	"go": {"Go", "main.go", "main_test.go", "Go 1.26",
		"the packages of whirlpool/sdk (`go doc ./whirlpool/sdk/observe`)", sdk.Go, ".", "whirlpool/sdk"},
	"rust": {"Rust", "src/lib.rs", "in src/lib.rs",
		"cargo and Rust's library for wasm32-unknown-unknown (rustup target add wasm32-unknown-unknown, or Debian's " +
			"cargo, libstd-rust-dev-wasm32 and lld)", "whirlpool/src/lib.rs", sdk.Rust, "rust", "whirlpool"},
	"as": {"AssemblyScript", "plugin.ts", "test.mjs", "node 20 and npm, which fetches the compiler the first time",
		"whirlpool/index.ts", sdk.AssemblyScript, "assemblyscript", "whirlpool"},
	"c":   {"C", "plugin.c", "test.c", "clang and lld", "whirlpool/whirlpool.h", sdk.C, "c", "whirlpool"},
	"cpp": {"C++", "plugin.cc", "test.cc", "clang and lld", "whirlpool/whirlpool.h", sdk.C, "c", "whirlpool"},
	"zig": {"Zig", "plugin.zig", "in plugin.zig", "zig 0.17.1, or python3 with venv, which fetches it the first time",
		"whirlpool/whirlpool.zig", sdk.Zig, "zig", "whirlpool"},
}

// Languages returns the languages that Plugin.Lang can name.
func Languages() []string { return []string{"go", "rust", "as", "c", "cpp", "zig"} }

// Plugin describes the plugin to write.
type Plugin struct {
	Name string // checked by plugins.CheckName
	Lang string // one of Languages
	Kind wasmhost.Kind
}

// ErrArgument is wrapped by errors that report an invalid Plugin or a folder that is not empty. Other errors come from
// the file system.
var ErrArgument = errors.New("cannot write a plugin")

// Check returns an error, which wraps ErrArgument, if p cannot be written.
func (p Plugin) Check() error {
	if err := plugins.CheckName(p.Name); err != nil {
		return fmt.Errorf("%w named %q: %w", ErrArgument, p.Name, err)
	}
	if !slices.Contains(Languages(), p.Lang) {
		return fmt.Errorf("%w: the language is %q: give one of %s%s", ErrArgument, p.Lang,
			strings.Join(Languages(), ", "), strict.DidYouMean(p.Lang, Languages()))
	}
	if !slices.Contains(wasmhost.Kinds(), p.Kind) {
		var names []string
		for _, kind := range wasmhost.Kinds() {
			names = append(names, string(kind))
		}
		return fmt.Errorf("%w: the kind is %q: give %s, %s or %s%s", ErrArgument, p.Kind, wasmhost.Scorer,
			wasmhost.Backoff, wasmhost.Judge, strict.DidYouMean(string(p.Kind), names))
	}
	return nil
}

// Write writes the plugin into a new or an empty folder. It returns the paths of the files in the folder, except for
// the files of the SDK.
func Write(dir string, p Plugin) ([]string, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return nil, fmt.Errorf("%w: %s is not empty; choose another folder, or empty it", ErrArgument, dir)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	lang := languages[p.Lang]
	w := &writer{dir: dir, data: templateData{language: lang, Plugin: p, Scorer: p.Kind == wasmhost.Scorer}}
	w.writeTemplates("templates/README.md.tmpl", "templates")
	for _, from := range []string{"all", string(p.Kind)} {
		w.writeTemplates("templates/"+p.Lang+"/"+from, "templates/"+p.Lang+"/"+from)
	}
	files := w.written
	w.copySDK()
	slices.Sort(files)
	return files, w.err
}

// templateData is the input of the templates.
type templateData struct {
	language
	Plugin
	Scorer bool
}

// Config returns an example of a setting, as a member of a JSON object.
func (d templateData) Config() string {
	switch d.Kind {
	case wasmhost.Scorer:
		return `"prefer":"PROXY-ID"`
	case wasmhost.Judge:
		return `"marker":"are you a robot"`
	}
	return `"factor":0.5`
}

// Toml returns the same setting as Config, as a line of TOML.
func (d templateData) Toml() string {
	switch d.Kind {
	case wasmhost.Scorer:
		return `prefer = "PROXY-ID"`
	case wasmhost.Judge:
		return `marker = "are you a robot"`
	}
	return "factor = 0.5"
}

// Use returns what the plugin is activated for: "first", "backoff" or "judge" (the field "for" of the API).
func (d templateData) Use() string {
	if d.Scorer {
		return "first"
	}
	return string(d.Kind)
}

// writer writes files. After an error, it writes nothing more.
type writer struct {
	dir     string
	data    templateData
	written []string
	err     error
}

// writeTemplates executes the templates in a folder, and writes their results. A result has the path of its template,
// without the folder base at the beginning and without ".tmpl" at the end.
func (w *writer) writeTemplates(folder, base string) {
	w.walkFiles(templates, folder, func(name string, text []byte) {
		t, err := template.New(name).Delims("[[", "]]").Parse(string(text))
		if err != nil {
			w.err = err
			return
		}
		var out bytes.Buffer
		if err := t.Execute(&out, w.data); err != nil {
			w.err = err
			return
		}
		w.write(strings.TrimSuffix(strings.TrimPrefix(name, base+"/"), ".tmpl"), out.Bytes())
	})
}

// copySDK copies the SDK of the language, and sdk/ABI.md.
func (w *writer) copySDK() {
	lang := w.data.language
	w.walkFiles(lang.sdk, lang.sdkFolder, func(name string, text []byte) {
		if lang.sdkFolder != "." {
			name = strings.TrimPrefix(name, lang.sdkFolder+"/")
		}
		w.write(path.Join(lang.targetFolder, name), text)
	})
	w.write("whirlpool/ABI.md", sdk.ABI)
	if w.data.Lang == "go" {
		w.write("whirlpool/go.mod", []byte("module github.com/whirlpool-proxy/whirlpool\n\ngo 1.26\n"))
	}
}

func (w *writer) walkFiles(from fs.FS, folder string, f func(name string, text []byte)) {
	err := fs.WalkDir(from, folder, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(from, name)
		if err == nil {
			f(name, text)
		}
		return err
	})
	if w.err == nil {
		w.err = err
	}
}

// write writes one new file. Shell scripts are executable.
func (w *writer) write(name string, text []byte) {
	if w.err != nil {
		return
	}
	file := filepath.Join(w.dir, filepath.FromSlash(name))
	if w.err = os.MkdirAll(filepath.Dir(file), 0o755); w.err != nil {
		return
	}
	mode := fs.FileMode(0o644)
	if strings.HasSuffix(name, ".sh") {
		mode = 0o755
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		w.err = err
		return
	}
	_, err = f.Write(text)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	w.err = err
	w.written = append(w.written, name)
}
