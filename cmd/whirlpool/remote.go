package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/config"
	"github.com/whirlpool-proxy/whirlpool/sdk/client"
)

// The default URL of the API, and the environment variables that a command reads.
const (
	defaultAPI = "http://127.0.0.1:8889"
	urlVar     = "WHIRLPOOL_URL"     // used if --url is not given
	keyVar     = "WHIRLPOOL_API_KEY" // has the API key
)

// remote is the connection of a command to the API of a running gateway. The fields url, keyFile and asJSON are flags.
type remote struct {
	cmd     *cobra.Command
	url     string
	keyFile string
	asJSON  bool

	api *client.Client
}

// gatewayCommand adds the flags of a remote to cmd: --url, --key-file and --json. When cmd runs, it opens the remote,
// and then calls the function f.
func gatewayCommand(cmd *cobra.Command, f func(r *remote, args []string) error) *cobra.Command {
	r := &remote{cmd: cmd}
	cmd.Flags().StringVar(&r.url, "url", "",
		"API `URL` (default: $"+urlVar+", client.toml or "+defaultAPI+")")
	for _, former := range []string{"to", "api"} {
		cmd.Flags().StringVar(&r.url, former, "", "a former name of --url")
		cmd.Flags().MarkHidden(former) // MarkHidden fails only if the flag does not exist
	}
	cmd.Flags().StringVar(&r.keyFile, "key-file", "",
		"`FILE` with the API key (default: $"+keyVar+", or client.toml)")
	cmd.Flags().BoolVar(&r.asJSON, "json", false, "print JSON")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		if err := r.open(); err != nil {
			return err
		}
		return f(r, args)
	}
	return cmd
}

// The method open creates r.api, the client of the API. There is no flag with the API key itself, because other users
// of the machine can read the flags of a command.
func (r *remote) open() error {
	settings, err := readClientFile()
	if err != nil {
		return usageError{err}
	}
	url := cmp.Or(r.url, os.Getenv(urlVar), settings.URL, defaultAPI)
	key, err := r.findKey(url, settings)
	if err != nil {
		return usageError{err}
	}
	if strings.ContainsAny(key, "\r\n") {
		return usageErrorf("the API key is more than one line")
	}
	if r.api, err = client.New(url, key); err != nil {
		if _, fault := client.New("http://"+url, ""); fault == nil && !strings.Contains(url, "://") {
			return usageErrorf("--url: %w; did you mean http://%s?", err, url)
		}
		return usageErrorf("--url: %w; the key comes from --key-file or $%s", err, keyVar)
	}
	r.api.HTTP.Timeout = time.Minute
	if base := r.api.Base; key != "" && base.Scheme == "http" &&
		!config.Loopback(net.JoinHostPort(base.Hostname(), "0")) {
		r.printNote("warning: the key is sent to %s without encryption", base.Host)
	}
	return nil
}

// findKey returns the API key for the URL of the API. It takes the key from --key-file, else from the environment, else
// from the client file. It uses the key of the client file only if the URL is the one in the client file (or the
// default URL), so that no other server gets this key.
func (r *remote) findKey(url string, settings clientSettings) (string, error) {
	file, key := r.keyFile, os.Getenv(keyVar)
	if file == "" && key == "" && url == cmp.Or(settings.URL, defaultAPI) {
		file, key = settings.KeyFile, settings.Key
	}
	if file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		key = string(text)
	}
	return strings.TrimSpace(key), nil
}

// printNote prints a line for the user to the standard error output.
func (r *remote) printNote(format string, args ...any) {
	fmt.Fprintf(r.cmd.ErrOrStderr(), format+"\n", args...)
}

// request is one request to the API.
type request struct {
	method, path string // path follows /api/v1, and is escaped
	body         []byte // JSON; nil for none
}

// The method send sends the request q and, if v is not nil, decodes the response into v. The returned status is 200 if
// there is no error, the status of the response if the API responds with an error, and 0 if there is no response.
func (r *remote) send(q request, v any) (status int, err error) {
	var in any
	if q.body != nil {
		in = json.RawMessage(q.body)
	}
	if err := r.api.Do(r.context(), q.method, q.path, nil, in, v); err != nil {
		return r.addAdvice(err)
	}
	return http.StatusOK, nil
}

func (r *remote) context() context.Context {
	if ctx := r.cmd.Context(); ctx != nil {
		return ctx
	}
	return context.Background()
}

// addAdvice adds advice for the user of the command to an error of package client. It returns the same status as the
// method send.
func (r *remote) addAdvice(err error) (status int, _ error) {
	var failed *client.Error
	var noResponse *client.NoResponseError
	switch {
	case err == nil:
		return http.StatusOK, nil
	case errors.As(err, &failed):
		r.advise(failed)
		if failed.Status == http.StatusBadRequest { // a wrong argument or flag
			err = usageError{err}
		}
		return failed.Status, err
	case errors.Is(err, context.Canceled), !errors.As(err, &noResponse):
		return 0, err
	}
	advice := "start the gateway (whirlpool serve), or set another address with --url"
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.Is(err, http.ErrSchemeMismatch):
		advice = "set --url to an http:// address"
	case errors.As(err, &certificate):
		advice = "set SSL_CERT_FILE to a file with the authority of the API's certificate (api.tls)"
	case errors.Is(err, io.EOF) && r.api.Base.Scheme == "http":
		advice = "if the API uses TLS (api.tls), set --url to an https:// address"
	}
	return 0, fmt.Errorf("%w; %s", err, advice)
}

// The method advise makes the message of an error response say what the user can change.
func (r *remote) advise(failed *client.Error) {
	switch {
	case failed.Status == http.StatusUnauthorized && r.api.Key == "":
		failed.Message = "the API at " + r.api.Base.Host + " needs a key; give it in --key-file or $" + keyVar
	case failed.Status == http.StatusUnauthorized:
		failed.Message = "the API at " + r.api.Base.Host + " refuses the key; give a key of its [[api.keys]] in " +
			"--key-file or $" + keyVar
	case failed.Code == "forbidden": // other codes of status 403 are about the request, such as egress_denied
		failed.Message += "; give an admin's key in --key-file or $" + keyVar
	case failed.Code == "bad_target" && strings.HasPrefix(failed.Message, "this is an HTTP proxy"):
		failed.Message = r.api.Base.Host + " is the proxy port of the gateway, not its API; set --url to the API " +
			"(api.listen, port 8889 by default)"
	}
}

// The method print prints the result v of a command. If --json is set, it prints v as JSON. Otherwise it calls
// printText, which prints v as text.
func (r *remote) print(v any, printText func(w io.Writer)) error {
	if r.asJSON {
		return printJSON(r.cmd.OutOrStdout(), v)
	}
	printText(r.cmd.OutOrStdout())
	return nil
}
