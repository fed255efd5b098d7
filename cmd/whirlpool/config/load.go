package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/v2"
	"github.com/pelletier/go-toml/v2"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lists"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/strict"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/plugins"
)

// Source describes where a configuration comes from.
type Source struct {
	File      string   // TOML file; "" for none
	Optional  bool     // File need not exist
	Environ   []string // environment variables in the form of os.Environ
	Overrides map[string]any
	Proxies   []string          // files of --proxies
	Stdin     []byte            // contents of the standard input, for the file Stdin in Proxies
	URLs      []string          // values of the flag --proxy
	Once      bool              // there will be no reload, so the files may be pipes
	Sizes     map[string]int    // Config.Sizes of the previous configuration; nil at the start
	Fetched   map[string][]byte // the fetched proxy lists, by URL

	ShareTexts func(*upstream.Address) // proxylist.Options.ShareTexts for all proxy lists; may be nil

	// Fetch, if not nil, fetches the proxy lists that are not in Fetched. It is called from several goroutines at the
	// same time. If Fetch returns an error, the configuration gets a warning, not a fault.
	Fetch func(lists.Source) ([]byte, error)
}

// envPrefix is the prefix of the environment variables that override keys. Their names have the form
// WHIRLPOOL_SECTION__KEY. In addition, WHIRLPOOL_PROXIES replaces [[proxies]]; its value is a list of tables.
const envPrefix = "WHIRLPOOL_"

// loader reads one configuration.
type loader struct {
	src     Source
	lines   map[string]int
	fromEnv map[string]string // key -> the environment variable that set the key
	unset   map[string]bool   // the keys that refer to a variable that is not set; each of them has a fault
	faults  []Fault
	cfg     Config

	proxyTLS   map[listOptions]*upstream.TLS // the results of loadTLS, by its arguments
	wrongFiles []int                         // indexes of the elements of pool.files that have a fault already
}

// Load loads and checks a configuration. If the configuration has faults, the error is an *Error with all of them.
func Load(src Source) (*Config, error) {
	cfg, err := Examine(src)
	if err != nil {
		return nil, err
	}
	return cfg, nil
}

// Examine is like Load, but also returns a configuration that has faults, so that the caller can check it further. The
// configuration is nil only if the file cannot be read or parsed.
func Examine(src Source) (*Config, error) {
	l := &loader{src: src, cfg: Default(), fromEnv: map[string]string{}, unset: map[string]bool{},
		proxyTLS: map[listOptions]*upstream.TLS{}}
	l.cfg.sizes = map[string]int{}
	tree := l.readTree()
	unread := len(l.faults) > 0
	l.normalizeListFiles(tree)
	if unread {
		l.decode("", strict.TOML, tree, &l.cfg) // beside the syntax errors, reports wrong keys and values
		return nil, l.faultsError()
	}
	l.decode("", strict.TOML, tree, &l.cfg)
	if _, set := tree["queue"]; !set && l.cfg.Breaker.Blame == BlameLiteral {
		l.cfg.Queue.MaxWaiting = 0
	}
	selection, _ := tree["selection"].(map[string]any)
	if _, set := selection["first"]; !set && l.cfg.Breaker.Blame == BlameLiteral {
		l.cfg.Selection.First = plugins.FallbackFirst
	}
	l.setStateDir(tree)
	l.readPolicy()
	l.readPlugins()
	l.expandSecrets()
	l.loadTLSTables()
	l.readIntercept()
	l.checkValues()
	l.readProxies()
	l.warnOfRuleProxies()
	l.warnOfContradictions()
	l.cfg.locateFault = l.locateFault
	return &l.cfg, l.faultsError()
}

// faultsError returns the faults as an *Error, sorted by file and line; nil if there are no faults.
func (l *loader) faultsError() error {
	if len(l.faults) == 0 {
		return nil
	}
	slices.SortStableFunc(l.faults, func(a, b Fault) int {
		return cmp.Or(strings.Compare(a.File, b.File), a.Line-b.Line)
	})
	return &Error{l.faults}
}

// readTree merges the file, the environment and the flags into one tree of values by key.
func (l *loader) readTree() map[string]any {
	k := koanf.New(".")
	var proxies any // [[proxies]] of the file; not in k, because koanf would copy it, and a long list is slow to copy
	if l.src.File != "" {
		doc, err := l.readFile(l.src.File, maxConfig)
		switch {
		case errors.Is(err, fs.ErrNotExist) && l.src.Optional:
		case err != nil:
			l.faults = append(l.faults, Fault{File: l.src.File, Msg: err.Error()})
		default:
			l.cfg.fileFound = true
			doc = bytes.TrimPrefix(doc, []byte("\ufeff"))
			tree := l.parseTOML(doc)
			proxies = tree["proxies"]
			delete(tree, "proxies")
			if err := k.Load(confmap.Provider(tree, ""), nil); err != nil {
				l.addSyntaxFault(err)
			}
		}
	}
	similar := similarKeys()
	environ := env.Provider(".", env.Opt{
		Prefix: envPrefix, EnvironFunc: func() []string { return l.src.Environ },
		TransformFunc: func(name, value string) (string, any) {
			key := strings.ToLower(strings.TrimPrefix(name, envPrefix))
			if !strings.Contains(key, "__") && key != "proxies" {
				if correct := similar[key]; correct != "" {
					l.cfg.Warnings = append(l.cfg.Warnings,
						fmt.Sprintf("the environment variable %s sets nothing; did you mean %s%s?", name, envPrefix,
							strings.ToUpper(correct)))
				}
				return "", nil // the variable belongs to another program
			}
			key = strings.ReplaceAll(key, "__", ".")
			if _, flag := l.src.Overrides[key]; !flag {
				l.fromEnv[key] = name
			}
			return key, envValue(value)
		},
	})
	for _, err := range []error{k.Load(environ, nil), k.Load(confmap.Provider(l.src.Overrides, "."), nil)} {
		if err != nil {
			l.faults = append(l.faults, Fault{File: "environment", Msg: err.Error()})
		}
	}
	tree := k.Raw()
	if _, set := tree["proxies"]; !set && proxies != nil {
		tree["proxies"] = proxies
	}
	tree = normalize(tree).(map[string]any)
	normalizeOwnErrors(tree)
	return tree
}

// normalizeListFiles replaces each text in pool.files by a table whose key file has this text as its value. For each
// error in an element, it adds a fault. It replaces an element with an error by an empty table, and adds the index of
// the element to l.wrongFiles.
func (l *loader) normalizeListFiles(tree map[string]any) {
	pool, _ := tree["pool"].(map[string]any)
	files, _ := pool["files"].([]any)
	for i, f := range files {
		key, faultCount := fmt.Sprintf("pool.files[%d]", i), len(l.faults)
		switch f := f.(type) {
		case string:
			files[i] = map[string]any{"file": f}
			continue
		case map[string]any:
			var table PoolFile
			l.decode(key, strict.TOML, f, &table)
			if table.File == "" && len(l.faults) == faultCount {
				l.addFault(key+".file", nil, "is missing")
			}
			if table.Scheme != "" && !IsScheme(table.Scheme) {
				l.addFault(key+".scheme", table.Scheme, "must be "+upstream.ProxySchemes)
			}
			if err := table.ID.Check(); err != nil {
				l.addFault(key+".id", table.ID, err.Error())
			}
		default:
			l.addFault(key, f, `must be the path of a file, or { file = "list.txt", scheme = "socks5" }`)
		}
		if len(l.faults) > faultCount {
			files[i] = map[string]any{}
			l.wrongFiles = append(l.wrongFiles, i)
		}
	}
}

// normalizeOwnErrors changes the own_error of each proxy to a list of tables. The configuration may have a single table
// in place of such a list.
func normalizeOwnErrors(tree map[string]any) {
	proxies, _ := tree["proxies"].([]any)
	for _, p := range proxies {
		if proxy, ok := p.(map[string]any); ok {
			if rule, ok := proxy["own_error"].(map[string]any); ok {
				proxy["own_error"] = []any{rule}
			}
		}
	}
}

// decode decodes a table into target. It adds a fault for each error, and returns true if there were no errors. The
// parameter path is the key of the table.
func (l *loader) decode(path string, format strict.Format, tree map[string]any, target any) bool {
	faultCount := len(l.faults)
	format.Decode(path, tree, target, func(e *strict.FieldError) bool {
		l.addFault(e.Field, e.Value, e.Msg)
		return true
	})
	return len(l.faults) == faultCount
}

// similarKeys maps each section_key to section__key, because a single underscore is a frequent mistake in the name of
// an environment variable.
func similarKeys() map[string]string {
	out := map[string]string{}
	add := func(section string, structType reflect.Type, tag string) {
		for i := range structType.NumField() {
			if key := structType.Field(i).Tag.Get(tag); key != "" && key != "-" {
				out[section+"_"+key] = section + "__" + key
			}
		}
	}
	for i, all := 0, reflect.TypeFor[Config](); i < all.NumField(); i++ {
		if f := all.Field(i); f.Type.Kind() == reflect.Struct && f.Tag.Get("koanf") != "-" {
			add(f.Tag.Get("koanf"), f.Type, "koanf")
		}
	}
	add("retry", reflect.TypeFor[retry.Policy](), "json")
	add("plugins", reflect.TypeFor[PluginHost](), "koanf")
	return out
}

// addSyntaxFault adds a fault for an error of the TOML parser.
func (l *loader) addSyntaxFault(err error) {
	f := Fault{File: l.src.File, Msg: "TOML: " + strings.TrimPrefix(err.Error(), "toml: ")}
	var d *toml.DecodeError
	if errors.As(err, &d) {
		f.Line, _ = d.Position()
		f.Key = maskedKey(strings.Join(d.Key(), "."))
		for _, part := range d.Key() {
			f.Msg = strings.ReplaceAll(f.Msg, part, maskedKey(part))
		}
	}
	if strings.HasSuffix(f.Msg, `expected keyword "nan"`) { // a value that begins with n: null, none
		f.Msg += `; if the value is text, it needs quotes, as in "null"`
	}
	l.faults = append(l.faults, f)
}

// envValue parses the value of an environment variable as TOML or else as a text.
func envValue(s string) any {
	var v struct{ V any }
	if err := toml.Unmarshal([]byte("V = "+s), &v); err == nil && !strings.ContainsAny(s, "\n\r") {
		return v.V
	}
	return s
}

// normalize converts the values in a tree to the types of strict.TOML: lists to []any, integers to int64.
func normalize(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, x := range v {
			out[key] = normalize(x)
		}
		return out
	case []map[string]any:
		out := make([]any, len(v))
		for i, x := range v {
			out[i] = normalize(x)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, x := range v {
			out[i] = normalize(x)
		}
		return out
	case []string:
		out := make([]any, len(v))
		for i, x := range v {
			out[i] = x
		}
		return out
	case int:
		return int64(v)
	}
	return v
}

// readPolicy reads [retry] and sets Config.Policy.
func (l *loader) readPolicy() {
	var o retry.Override
	l.decodeOverride("retry", l.cfg.Retry, &o)
	p := retry.DefaultPolicy()
	p = p.Merge(o)
	if len(l.faults) == 0 {
		if err := p.Validate(anyStrategy); err != nil {
			l.addFault("retry", nil, err.Error())
		}
	}
	l.cfg.Policy = p
}

// anyStrategy permits every name of a backoff, because the engine checks the name later.
func anyStrategy(string) bool { return true }

// decodeOverride decodes a table with fields of a retry policy into o, key by key. It adds a fault for each wrong key.
// The parameter path is the key of the table.
func (l *loader) decodeOverride(path string, table map[string]any, o *retry.Override) {
	for _, key := range slices.Sorted(maps.Keys(table)) {
		value := table[key]
		if text, isText := value.(string); isText && (key == "timeout" || key == "failover_delay") {
			if text != "null" {
				l.addFault(path+"."+key, value, `must be a number of seconds, or "null"`)
				continue
			}
			value = nil // TOML has no null, so the text "null" stands for it
		}
		var fieldOverride retry.Override
		tree := map[string]any{key: value}
		if !l.decode(path, strict.TOML.WithTag("json"), tree, &fieldOverride) {
			continue
		}
		p := retry.DefaultPolicy()
		p = p.Merge(fieldOverride)
		var wrong *retry.FieldError
		if errors.As(p.Validate(anyStrategy), &wrong) {
			l.addFault(path+"."+key, value, wrong.Msg)
			continue
		}
		l.decode(path, strict.TOML.WithTag("json"), tree, o)
	}
}

// setStateDir sets the default of state.dir: the path of the configuration file, followed by ".state". In this way,
// gateways with different files have different folders.
func (l *loader) setStateDir(tree map[string]any) {
	section, _ := tree["state"].(map[string]any)
	if _, set := section["dir"]; set {
		l.cfg.State.Implied = false
	} else if l.cfg.fileFound {
		l.cfg.State.Dir = stateDirOf(l.src.File)
	}
}

// stateDirOf returns the default of state.dir with a configuration file.
func stateDirOf(file string) string { return file + ".state" }

// resolvePath resolves a relative path against the folder of the configuration file.
func (l *loader) resolvePath(path string) string {
	if filepath.IsAbs(path) || l.src.File == "" {
		return path
	}
	return filepath.Join(filepath.Dir(l.src.File), path)
}

// readFile reads a file of at most limit bytes. It refuses a pipe unless Source.Once is set, because a reload would
// block until another program writes to the pipe. It refuses an empty file that had contents before (Source.Sizes),
// because another program may not have finished writing it.
func (l *loader) readFile(path string, limit int64) ([]byte, error) {
	if err := l.refusePipe(path); err != nil {
		return nil, err
	}
	data, err := readLimited(path, limit)
	if err == nil {
		err = l.checkSize(path, len(data), len(bytes.TrimSpace(data)) == 0)
	}
	return data, err
}

// readListFile is like readFile, for a proxy list.
func (l *loader) readListFile(path string) (*listText, error) {
	if err := l.refusePipe(path); err != nil {
		return nil, err
	}
	text, err := readListText(path, maxList)
	if err == nil {
		err = l.checkSize(path, text.size, text.blank)
	}
	return text, err
}

func (l *loader) refusePipe(path string) error {
	if info, err := os.Stat(path); err == nil && info.Mode()&fs.ModeNamedPipe != 0 && !l.src.Once {
		return fmt.Errorf("%s is a pipe, which cannot be read again at a reload; use a file", path)
	}
	return nil
}

// checkSize returns an error if a file is empty but had contents before. It records the size of a file that is not
// empty.
func (l *loader) checkSize(path string, size int, blank bool) error {
	switch {
	case !blank:
		l.cfg.sizes[path] = size
	case l.src.Sizes[path] > 0:
		return fmt.Errorf("%s has become empty; if this is intended, write a comment into it", path)
	}
	return nil
}
