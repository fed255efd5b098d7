//go:build linux

package sockets

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/integration/criteria/fakes"
	"github.com/whirlpool-proxy/whirlpool/integration/criteria/faults"
	"github.com/whirlpool-proxy/whirlpool/integration/criteria/workload"
	"github.com/whirlpool-proxy/whirlpool/integration/peers"
)

// PolicyResult is the result of Policy: how soon a changed policy is in force.
type PolicyResult struct {
	Changes   int
	Requests  int           // requests that began after the response to a change
	OldPolicy int           // number of these requests that ran under the previous policy
	Slowest   time.Duration // duration of the slowest change
}

// Policy changes max_attempts through the API several times, under load. After each change it makes requests
// through proxies that all refuse connections. The number of attempts of a request shows its policy.
func (b *Bench) Policy(binary string, changes int) (*PolicyResult, error) {
	api, err := peers.FreeAddr()
	if err != nil {
		return nil, err
	}
	w := &workload.Workload{Name: "policy", Pool: make(faults.Pool, 8)}
	for i := range w.Pool {
		w.Pool[i] = faults.SteadyProxy(faults.State{Refuses: true})
	}
	sockets, err := listen(fakes.New(w, ""), w, b.network())
	if err != nil {
		return nil, err
	}
	defer sockets.close()
	config := "[breaker]\nfailure_threshold = 1000000\nblame = \"literal\"\n[log]\nlevel = \"error\"\n"
	r, err := peers.Start("whirlpool", peers.WhirlpoolAt(binary, api, config), peers.Options{Upstreams: sockets.addrs})
	if err != nil {
		return nil, err
	}
	defer r.Stop()
	if err := r.WaitFor(api); err != nil { // the gateway listens for clients before it listens for the API
		return nil, err
	}
	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: r.Addr}), MaxIdleConnsPerHost: 16}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: requestTimeout}

	stop, ended := atomic.Bool{}, make(chan struct{})
	for range 8 {
		go func() {
			for !stop.Load() {
				countAttempts(client)
			}
			ended <- struct{}{}
		}()
	}
	defer func() {
		stop.Store(true)
		for range 8 {
			<-ended
		}
	}()
	result := &PolicyResult{}
	for i := range changes {
		number := 2 + i%4
		took, err := setAttempts(api, number)
		if err != nil {
			return nil, err
		}
		result.Changes++
		result.Slowest = max(result.Slowest, took)
		for range 3 {
			n, err := countAttempts(client)
			if err != nil {
				return nil, err
			}
			result.Requests++
			if n != number {
				result.OldPolicy++
			}
		}
	}
	return result, nil
}

// countAttempts makes a request and returns the number of its attempts.
func countAttempts(client *http.Client) (int, error) {
	response, err := client.Get("http://" + fakes.URL(0, 0))
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return 0, err
	}
	return strconv.Atoi(response.Header.Get("X-Whirlpool-Attempts"))
}

// setAttempts sets max_attempts through the API, and returns the duration of the call.
func setAttempts(api string, number int) (time.Duration, error) {
	body := strings.NewReader(fmt.Sprintf(`{"max_attempts":%d}`, number))
	q, err := http.NewRequest(http.MethodPut, "http://"+api+"/api/v1/retry/policy", body)
	if err != nil {
		return 0, err
	}
	q.Header.Set("Content-Type", "application/json")
	began := time.Now()
	response, err := http.DefaultClient.Do(q)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("PUT of the policy: %s: %s", response.Status, text)
	}
	return time.Since(began), err
}
