// Command record writes sdk/sdktest/recording.json: the events that a gateway sends to its plugins while requests go
// through good and bad proxies (of package lab).
//
//	go run ./integration/record > sdk/sdktest/recording.json
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/proxylist"
	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
	"github.com/whirlpool-proxy/whirlpool/sdk/sdktest"
)

const requests = 50

func main() {
	if err := record(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}

func record(out io.Writer) error {
	log := slog.New(slog.DiscardHandler)
	registry, err := plugins.New(plugins.Options{Log: log})
	if err != nil {
		return err
	}
	defer registry.Close()
	demo, err := lab.StartDemo()
	if err != nil {
		return err
	}
	defer demo.Close()
	lines := strings.NewReader(strings.Join(demo.Proxies(), "\n"))
	list, _, err := proxylist.Parse(lines, proxylist.Options{Name: "demo"})
	if err != nil {
		return err
	}
	cfg := engine.DefaultConfig()
	cfg.Proxies, cfg.Retry.BaseDelay, cfg.FirstScorer = list, 0.1, "random"
	cfg.AttemptTimeout, cfg.BodyIdle = time.Second, time.Second
	tape := &tape{registry: registry}
	e, err := engine.New(cfg, engine.Options{Plugins: tape, Observe: tape.observe, Log: log})
	if err != nil {
		return err
	}
	defer e.Shutdown(context.Background())
	client := &http.Client{Transport: e.Transport()}
	for i := range requests {
		r, err := client.Get(fmt.Sprintf("http://host-%d.example/", i%3))
		if err != nil {
			return err
		}
		r.Body.Close()
	}
	return tape.write(out)
}

// tape records the events that the engine sends to its plugins. The engine calls the tape in place of the plugins.
type tape struct {
	registry *plugins.Registry
	mu       sync.Mutex
	events   sdktest.Recording
}

func (t *tape) add(e sdktest.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events = append(t.events, e)
}

func (t *tape) observe(o *core.Observation) {
	t.add(sdktest.Event{Observation: (*abi.Observation)(o)})
}

// Scorer implements engine.Plugins.
func (t *tape) Scorer(name, fallback string) (core.Scorer, error) {
	s, err := t.registry.Scorer(name, fallback)
	return &scorer{s, t}, err
}

func (t *tape) Backoff(name string) (core.Backoff, error) {
	b, err := t.registry.Backoff(name)
	return &backoff{b, t}, err
}

type scorer struct {
	core.Scorer
	tape *tape
}

func (s *scorer) Score(c core.Candidates, scores []float64) error {
	var q core.RankRequest
	rows := make([]core.Candidate, c.Len())
	c.Fill(&q, rows)
	e := sdktest.Event{Request: (*abi.RankRequest)(&q)}
	for _, r := range rows {
		e.Candidates = append(e.Candidates, abi.Candidate(r))
	}
	s.tape.add(e)
	return s.Scorer.Score(c, scores)
}

type backoff struct {
	core.Backoff
	tape *tape
}

func (b *backoff) Delay(r *core.BackoffRequest) (float64, error) {
	q := *r
	b.tape.add(sdktest.Event{Backoff: (*abi.BackoffRequest)(&q)})
	return b.Backoff.Delay(r)
}

// write writes the events as JSON, one per line.
func (t *tape) write(to io.Writer) error {
	out := bufio.NewWriter(to)
	for i, e := range t.events {
		line, err := json.Marshal(e)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s%s", map[bool]string{true: "[", false: ",\n"}[i == 0], line)
	}
	fmt.Fprintln(out, "]")
	return out.Flush()
}
