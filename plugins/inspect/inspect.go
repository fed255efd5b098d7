// Package inspect reports the declarations of a module without running it, and all errors in them. `whirlpool plugin
// inspect` uses it.
package inspect

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/meter"
)

// Report has the declarations of a module.
type Report struct {
	OK             bool          `json:"ok"` // the module has no errors
	Kind           wasmhost.Kind `json:"kind,omitempty"`
	ABIVersion     int           `json:"abi_version,omitempty"`
	SHA256         string        `json:"sha256"`
	Size           int           `json:"size"`             // bytes
	MemoryMin      uint32        `json:"memory_min_pages"` // minimum memory, in pages of 64 KiB
	MemoryMax      uint32        `json:"memory_max_pages"` // declared maximum, in pages; 65536 if none is declared
	TableMin       uint32        `json:"table_elements"`
	Functions      int           `json:"functions"`
	DataBytes      int           `json:"data_bytes"`
	Exports        []Item        `json:"exports"`
	Imports        []Item        `json:"imports"`
	CustomSections []string      `json:"custom_sections"`
	Faults         []string      `json:"faults"`
}

// Item is one export or import.
type Item struct {
	Name      string `json:"name"` // name of an export, or MODULE.NAME of an import
	Kind      string `json:"kind"` // func, memory, table or global
	Signature string `json:"signature,omitempty"`
}

// Run inspects a module.
func Run(host *wasmhost.Host, code []byte) Report {
	desc, found := host.Examine(code)
	info, _ := meter.Inspect(code) // found contains the error, too
	sum := sha256.Sum256(code)
	r := Report{
		OK: len(found) == 0, Kind: desc.Kind, ABIVersion: desc.ABIVersion, SHA256: hex.EncodeToString(sum[:]),
		Size:      len(code),
		MemoryMin: info.MemoryMin, MemoryMax: info.MemoryMax, TableMin: info.TableMin, Functions: info.Functions,
		DataBytes: info.DataBytes,
		Exports:   []Item{}, Imports: []Item{},
		CustomSections: append([]string{}, info.CustomSections...), Faults: []string{},
	}
	for _, e := range info.Exports {
		r.Exports = append(r.Exports, item(e.Name, e.Kind, e.Params, e.Results))
	}
	for _, i := range info.Imports {
		r.Imports = append(r.Imports, item(i.Module+"."+i.Name, i.Kind, i.Params, i.Results))
	}
	for _, f := range found {
		if !slices.Contains(r.Faults, f.Msg) {
			r.Faults = append(r.Faults, f.Msg)
		}
	}
	return r
}

func item(name string, kind meter.Kind, params, results []byte) Item {
	i := Item{Name: name, Kind: kind.String()}
	if kind == meter.Function {
		i.Signature = meter.Signature(params, results)
	}
	return i
}

// Write writes the report as text.
func (r Report) Write(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "kind\t%s\n", orDefault(string(r.Kind), "unknown"))
	if r.ABIVersion > 0 {
		fmt.Fprintf(w, "abi version\t%d\n", r.ABIVersion)
	} else {
		fmt.Fprintf(w, "abi version\tunknown\n")
	}
	fmt.Fprintf(w, "size\t%d bytes\n", r.Size)
	fmt.Fprintf(w, "sha256\t%s\n", r.SHA256)
	fmt.Fprintf(w, "memory\t%s\n", r.memory())
	fmt.Fprintf(w, "functions\t%d\n", r.Functions)
	fmt.Fprintf(w, "data\t%d bytes\n", r.DataBytes)
	if r.TableMin > 0 {
		fmt.Fprintf(w, "table\t%d elements\n", r.TableMin)
	}
	writeItems(w, "exports", r.Exports)
	writeItems(w, "imports", r.Imports)
	fmt.Fprintf(w, "custom sections\t%s\n", orDefault(quoteNames(r.CustomSections), "none"))
	if err := w.Flush(); err != nil {
		return err
	}
	for _, f := range r.Faults {
		if _, err := fmt.Fprintf(out, "fault: %s\n", f); err != nil {
			return err
		}
	}
	return nil
}

func (r Report) memory() string {
	limit := fmt.Sprintf("at most %d", r.MemoryMax)
	if r.MemoryMax >= 1<<16 {
		limit = "no bound of its own"
	}
	return fmt.Sprintf("%d pages of 64 KiB, %s", r.MemoryMin, limit)
}

func writeItems(w io.Writer, title string, items []Item) {
	if len(items) == 0 {
		fmt.Fprintf(w, "%s\tnone\n", title)
	}
	for _, i := range items {
		fmt.Fprintf(w, "%s\t%s\n", title, strings.TrimSpace(fmt.Sprintf("%s %q %s", i.Kind, i.Name, i.Signature)))
		title = ""
	}
}

// quoteNames quotes and joins names from the module, which may contain any bytes.
func quoteNames(names []string) string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = fmt.Sprintf("%q", n)
	}
	return strings.Join(out, ", ")
}

func orDefault(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
