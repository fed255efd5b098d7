//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/integration/criteria/report"
	"github.com/whirlpool-proxy/whirlpool/integration/criteria/workload"
)

// virtual runs all jobs in virtual time. testing/synctest works only in tests, so the jobs run in TestJobs of
// package virtual, in a separate process.
func (p *program) virtual(d *report.Data) error {
	for _, j := range workload.Jobs(d.Catalog) {
		p.stepCount += len(j.Variants)
	}
	binary, err := p.build("virtual", "test", "-c", "./integration/criteria/virtual")
	if err != nil {
		return err
	}
	outcomes := filepath.Join(p.tmp, "outcomes")
	cmd := exec.Command(binary, "-test.run", "^TestJobs$", "-test.timeout", "20m", "-out", outcomes,
		"-koanf", "koanf.toml", "-seed", fmt.Sprint(d.Catalog.Seed), "-scale", fmt.Sprint(d.Catalog.Scale))
	cmd.Dir = p.root
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	var rest strings.Builder // lines that do not report progress
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if step, ok := strings.CutPrefix(lines.Text(), "done: "); ok {
			p.progress("virtual: " + step)
		} else {
			fmt.Fprintln(&rest, lines.Text())
		}
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("the runs in virtual time: %w\n%s", err, rest.String())
	}
	d.Virtual, err = readOutcomes(outcomes)
	return err
}

func readOutcomes(path string) (map[string]map[string]*workload.Outcome, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all := map[string]map[string]*workload.Outcome{}
	for decoder := json.NewDecoder(f); ; {
		o := &workload.Outcome{}
		if err := decoder.Decode(o); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		if all[o.Workload] == nil {
			all[o.Workload] = map[string]*workload.Outcome{}
		}
		all[o.Workload][o.Variant] = o
	}
}
