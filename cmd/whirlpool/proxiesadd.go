package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/whirlpool-proxy/whirlpool/core/proxylist"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// newProxy is the JSON of one proxy in the body of POST /proxies.
type newProxy struct {
	ID          string            `json:"id,omitempty"`
	URL         string            `json:"url"`
	Region      string            `json:"region,omitempty"`
	Tags        []string          `json:"tags,omitempty"`
	Weight      float64           `json:"weight,omitempty"`
	Cost        float64           `json:"cost,omitempty"`
	MaxInFlight int               `json:"max_in_flight,omitempty"`
	Rate        float64           `json:"rate,omitempty"`
	MinInterval string            `json:"min_interval,omitempty"`
	BytesPerDay int64             `json:"bytes_per_day,omitempty"`
	Tier        int               `json:"tier,omitempty"`
	Vendor      string            `json:"vendor,omitempty"`
	CostRequest float64           `json:"cost_per_request,omitempty"`
	CostGB      float64           `json:"cost_per_gb,omitempty"`
	Auth        string            `json:"auth,omitempty"`
	Reuse       *bool             `json:"reuse,omitempty"`
	Metadata    map[string]string `json:"metadata,omitempty"`
}

func newProxyOf(s *upstream.Spec) (newProxy, error) {
	e := s.Extra()
	p := newProxy{ID: s.ID, URL: proxylist.FormatLine(&upstream.Spec{Address: s.Address}), Region: s.Region,
		Tags: s.Tags, Weight: s.Weight, Cost: s.Cost, MaxInFlight: e.MaxInFlight, Rate: e.Rate,
		BytesPerDay: e.BytesPerDay, Tier: s.Tier, Vendor: e.Vendor, CostRequest: e.Price.Request,
		CostGB: e.Price.GB, Auth: e.Auth, Metadata: e.Metadata}
	if e.MinInterval != 0 {
		p.MinInterval = e.MinInterval.String()
	}
	if e.NoReuse {
		p.Reuse = new(bool)
	}
	if e.TLS != nil {
		return p, errors.New("TLS files are set in the configuration of the gateway only")
	}
	return p, nil
}

func addProxiesCommand() *cobra.Command {
	var o struct {
		file, scheme, id, region string
		noPersist                bool
	}
	cmd := &cobra.Command{
		Use: "add [PROXY...]", Short: "Add proxies to a gateway: all of them or, if one is invalid, none",
		Long: `Add proxies to a running gateway: all of them or, if one is invalid, none. PROXY is a line of a proxy
list, such as http://user:password@host:8080#region=DE. Other users of the machine can read the arguments
of a command; put credentials into a file, or into the standard input (--file -).`,
		Example: "  whirlpool proxies add http://10.0.0.5:3128 socks5://10.0.0.6:1080#region=DE\n" +
			"  whirlpool proxies add --file new.txt",
		Annotations: map[string]string{secretArgs: "true"},
	}
	f := cmd.Flags()
	f.StringVar(&o.file, "file", "", "proxy list: a `FILE`, or - for standard input")
	f.StringVar(&o.scheme, "scheme", "http", "`SCHEME` of lines without one: "+upstream.ProxySchemes)
	completeWords(cmd, "scheme", upstream.SchemeNames())
	f.StringVar(&o.id, "id", "", "`ID` of the proxy; of several, a text such as '{user}@{host}:{port}'")
	f.StringVar(&o.region, "region", "", "`REGION` of the proxies without one")
	f.BoolVar(&o.noPersist, "no-persist", false, "do not record the proxies: they are lost at the end of the process")
	return gatewayCommand(cmd, func(r *remote, args []string) error {
		text := strings.Join(args, "\n")
		if o.file != "" {
			if len(args) > 0 {
				return usageErrorf("proxies add takes PROXY arguments or --file, not both")
			}
			list, err := readInput(o.file, cmd.InOrStdin())
			if err != nil {
				return usageError{err}
			}
			text = string(list)
		}
		proxies, err := parseProxies(text, o.scheme, o.id)
		if err != nil {
			return err
		}
		for i := range proxies {
			proxies[i].Region = cmp.Or(proxies[i].Region, o.region)
		}
		return r.addProxies(proxies, !o.noPersist)
	})
}

// parseProxies parses the lines of a proxy list. It returns an error for the first wrong line, whereas the gateway
// skips the wrong lines of its proxy lists. The parameter id is the id of a single proxy, a template for the ids of
// several proxies, or "" for automatic ids.
func parseProxies(text, scheme, id string) ([]newProxy, error) {
	if err := checkWord("--scheme", scheme, upstream.SchemeNames()); err != nil {
		return nil, err
	}
	specs, warnings, err := proxylist.Parse(strings.NewReader(text), proxylist.Options{Scheme: scheme,
		HasIDTemplate: upstream.IDTemplate(id).HasPlaceholder()})
	if err != nil {
		return nil, usageError{err}
	}
	if len(warnings) > 0 {
		return nil, usageErrorf("proxy %d: %s", warnings[0].Line, warnings[0].Msg)
	}
	if len(specs) == 0 {
		return nil, usageErrorf("there is no proxy: give PROXY, or --file with a proxy list")
	}
	switch template := upstream.IDTemplate(id); {
	case template.HasPlaceholder():
		if err := template.Check(); err != nil {
			return nil, usageErrorf("--id %w", err)
		}
		upstream.SetIDTemplate(specs, template)
		upstream.AssignIDs(specs)
	case id != "" && len(specs) > 1:
		return nil, usageErrorf("--id is for one proxy; there are %d: give a text with placeholders, such as "+
			"'{user}@{host}:{port}'", len(specs))
	case id != "":
		specs[0].ID = id
	}
	proxies := make([]newProxy, len(specs))
	for i := range specs {
		if proxies[i], err = newProxyOf(&specs[i]); err != nil {
			return nil, usageErrorf("proxy %d: %w", i+1, err)
		}
	}
	return proxies, nil
}

func (r *remote) addProxies(proxies []newProxy, persist bool) error {
	body, err := json.Marshal(map[string]any{"proxies": proxies, "persist": persist})
	if err != nil {
		return err
	}
	var raw json.RawMessage
	if _, err := r.send(request{method: http.MethodPost, path: "/proxies", body: body},
		&raw); err != nil {
		return err
	}
	var added struct {
		Proxies []proxyRow `json:"proxies"`
	}
	if err := json.Unmarshal(raw, &added); err != nil {
		return err
	}
	return r.print(raw, func(w io.Writer) {
		for _, p := range added.Proxies {
			fmt.Fprintf(w, "%s is added: %s\n", p.ID, p.URL)
		}
	})
}
