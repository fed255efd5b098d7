package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/plugins/conformance"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// The gateway checks an uploaded module as `whirlpool plugin verify` does, but in a child process with a low priority
// and its own memory. As a result, a module that takes seconds to compile, or makes the checks expensive on purpose,
// does not slow down requests. The child writes the compiled code of a slow module to the cache directory, and the
// gateway reads it there.

// checkTimeout is the maximum time for the checks of one module. The checks of a good module that was compiled with
// standard Go take one second of CPU time. At low priority on a busy machine, they take up to 20 s.
const checkTimeout = 2 * time.Minute

// checkHeader is the first line, in JSON, of the standard input of the child process. The module follows this line.
type checkHeader struct {
	Limits   wasmhost.Limits
	CacheDir string
	Config   map[string]any
	Nice     int // nice value: niceSlow or niceOther
}

// The nice values of the child process. niceSlow is for modules that are slow to compile (wasmhost.IsSlowToCompile). On
// a busy processor, the child gets a tenth of the gateway's CPU time with niceSlow, and a third with niceOther.
const (
	niceSlow  = 10
	niceOther = 5
)

type checker struct {
	limits   wasmhost.Limits
	cacheDir string
	program  string // path of the executable of the child process; "" to check in this process
}

// check implements plugins.Options.Check.
func (c *checker) check(ctx context.Context, code []byte, spec plugins.Spec) error {
	report, err := c.runChecks(ctx, code, spec)
	if err != nil {
		return err
	}
	var failed []plugins.FailedCheck
	for _, f := range report.Checks {
		if f.Result == conformance.Fail {
			failed = append(failed, plugins.FailedCheck{Name: f.Name, Detail: f.Detail, Fix: f.Remedy})
		}
	}
	if len(failed) > 0 {
		return &plugins.Rejection{Failed: failed}
	}
	return nil
}

func (c *checker) runChecks(ctx context.Context, code []byte, spec plugins.Spec) (conformance.Report, error) {
	limits := spec.Limits.WithDefaults(c.limits)
	checkHere := func() (conformance.Report, error) {
		return conformance.Run(wasmhost.New(limits, c.cacheDir), code, spec.Config), nil
	}
	if c.program == "" {
		return checkHere()
	}
	nice := niceOther
	if wasmhost.IsSlowToCompile(code) {
		nice = niceSlow
	}
	header, err := json.Marshal(checkHeader{limits, c.cacheDir, spec.Config, nice})
	if err != nil {
		return conformance.Report{}, &wasmhost.CheckError{Msg: "the settings cannot be written as JSON: " + err.Error()}
	}
	checkCtx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	cmd := exec.CommandContext(checkCtx, c.program, "plugin", "check")
	cmd.Env = []string{"GOMAXPROCS=1", "GOMEMLIMIT=256MiB"} // the gateway's variables may hold keys
	cmd.Stdin = io.MultiReader(bytes.NewReader(header), bytes.NewReader([]byte("\n")), bytes.NewReader(code))
	var out bytes.Buffer
	cmd.Stdout = &out
	isolateChild(cmd)
	runtime.LockOSThread() // Linux ends a child when the thread that has started the child ends
	defer runtime.UnlockOSThread()
	if ctx.Err() != nil {
		return conformance.Report{}, ctx.Err()
	}
	if err := cmd.Start(); err != nil { // the executable was removed, or the limit on processes is reached
		return checkHere()
	}
	err = cmd.Wait()
	var report conformance.Report
	switch {
	case ctx.Err() != nil:
		return report, ctx.Err()
	case checkCtx.Err() != nil:
		return report, rejectUnfinished(fmt.Sprintf("the checks took longer than %v", checkTimeout))
	case err != nil:
		return report, rejectUnfinished("the checks ended early: " + err.Error())
	}
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		return report, fmt.Errorf("the report of the checks: %w", err)
	}
	return report, nil
}

// rejectUnfinished returns the rejection of a module whose checks were not completed.
func rejectUnfinished(detail string) error {
	return &plugins.Rejection{Failed: []plugins.FailedCheck{{
		Name: "finishes", Detail: detail, Fix: "whirlpool plugin verify FILE shows the result of each check",
	}}}
}

// checkCommand returns the command of the child process. It is hidden, because only the gateway runs it. Users run
// `whirlpool plugin verify`.
func checkCommand() *cobra.Command {
	return &cobra.Command{
		Use: "check", Short: "Check the module on standard input for a gateway", Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in := bufio.NewReader(cmd.InOrStdin())
			line, err := in.ReadBytes('\n')
			if err != nil {
				return usageErrorf("only the gateway runs check, for an upload; use verify")
			}
			var h checkHeader
			d := json.NewDecoder(bytes.NewReader(line))
			d.UseNumber() // numbers stay as they are in the text
			if err := d.Decode(&h); err != nil {
				return usageError{err}
			}
			setNice(h.Nice)
			code, err := io.ReadAll(in)
			if err != nil {
				return err
			}
			host := wasmhost.New(h.Limits, h.CacheDir)
			return json.NewEncoder(cmd.OutOrStdout()).Encode(conformance.Run(host, code, h.Config))
		},
	}
}
