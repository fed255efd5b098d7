package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/sdk/client"
)

// sdk/client has a method for each operation of openapi.yaml.
func TestTheClientHasEveryOperation(t *testing.T) {
	var mu sync.Mutex           // guards called
	called := map[string]bool{} // such as "GET /proxies/x"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		mu.Lock()
		called[q.Method+" "+strings.TrimPrefix(q.URL.Path, "/api/v1")] = true
		mu.Unlock()
		w.Write([]byte("{}"))
	}))
	defer server.Close()
	c, err := client.New(server.URL, "")
	require.NoError(t, err)
	methods := reflect.ValueOf(c)
	for i := range methods.NumMethod() {
		if name := methods.Type().Method(i).Name; name != "Do" && name != "Send" {
			callWithSamples(methods.Method(i))
		}
	}
	var document struct {
		Paths map[string]map[string]json.RawMessage
	}
	r := newRig(t, nil)
	_, body := r.send(t, "GET", "/api/v1/openapi.json", "")
	require.NoError(t, json.Unmarshal(body, &document))
	parameter := regexp.MustCompile(`\{[^}]*\}`)
	mu.Lock()
	defer mu.Unlock()
	for path, item := range document.Paths {
		for method := range item {
			if method == "parameters" {
				continue
			}
			operation := strings.ToUpper(method) + " " + parameter.ReplaceAllString(path, "x")
			require.True(t, called[operation], "sdk/client has no method for %s", operation)
		}
	}
}

// callWithSamples calls a method of the client. Each text in the arguments is "x".
func callWithSamples(method reflect.Value) {
	arguments := []reflect.Value{reflect.ValueOf(context.Background())}
	for i := 1; i < method.Type().NumIn(); i++ {
		v := reflect.New(method.Type().In(i)).Elem()
		switch v.Kind() {
		case reflect.String:
			v.SetString("x")
		case reflect.Int, reflect.Int64:
			v.SetInt(1)
		}
		arguments = append(arguments, v)
	}
	method.Call(arguments)
}

// The types of the results have every field that the API sends.
func TestClientResults(t *testing.T) {
	r := newRig(t, nil)
	ctx, raw := context.Background(), ""
	c := r.clientOf(t, &raw)
	for name, call := range map[string]func() (any, error){
		"Totals":        func() (any, error) { return c.Totals(ctx) },
		"Transitions":   func() (any, error) { return c.Transitions(ctx, 1, client.List{Limit: 1}) },
		"Costs":         func() (any, error) { return c.Costs(ctx) },
		"Config":        func() (any, error) { return c.Config(ctx) },
		"Health":        func() (any, error) { return c.Health(ctx) },
		"State":         func() (any, error) { return c.State(ctx) },
		"Users":         func() (any, error) { return c.Users(ctx) },
		"Target":        func() (any, error) { return c.Target(ctx, "a.test", time.Hour) },
		"Route":         func() (any, error) { return c.Route(ctx, "http://a.test/", "", "") },
		"PreviewPolicy": func() (any, error) { return c.PreviewPolicy(ctx, map[string]any{"max_attempts": 5}) },
		"Plugin":        func() (any, error) { return c.Plugin(ctx, "random") },
		"ImportProxies": func() (any, error) { return c.ImportProxies(ctx, "http://10.0.0.9:80\n", true) },
	} {
		v, err := call()
		require.NoError(t, err, name)
		requireSameFields(t, raw, v, name)
	}
	groups, err := c.ProxyGroups(ctx, "region", client.List{})
	require.NoError(t, err)
	require.NotEmpty(t, groups)
	list, err := c.ExportProxies(ctx, "csv", client.List{})
	require.NoError(t, err)
	require.Contains(t, list, "url,id,region")
	plugins, err := c.Plugins(ctx)
	require.NoError(t, err)
	require.NotEmpty(t, plugins)
}
