// Package redisstore is a cluster.Store in Redis (7 or later) or Valkey (8 or later).
package redisstore

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	_ "embed" // exchange.lua
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/whirlpool-proxy/whirlpool/core/cluster"
)

//go:embed exchange.lua
var script string

// CheckURL returns an error if s is not a valid URL of a store. The error never quotes a password. It may quote the
// name of a file. It quotes the name of an unknown parameter only if that name cannot be a part of a password.
func CheckURL(s string) error {
	_, err := options(s)
	return err
}

// Redacted returns a store's URL without user, password and parameters.
func Redacted(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host + u.Path
}

// bufferSize is the size of a connection's buffers, in bytes.
const bufferSize = 64 << 10

// refreshSentinel is the interval at which a Sentinel is asked for the primary, because a report of a failover may be
// lost.
const refreshSentinel = 2 * time.Second

func options(s string) (o rueidis.ClientOption, err error) {
	u, err := url.Parse(s)
	if err != nil || !slices.Contains([]string{"redis", "rediss", "valkey", "valkeys"}, u.Scheme) || u.Host == "" ||
		u.Fragment != "" {
		return o, errors.New(
			"must be a URL such as redis://127.0.0.1:6379, redis://user:password@host:6379/0 or rediss://host:6379")
	}
	if err := checkParameters(u.RawQuery); err != nil {
		return o, err
	}
	if u.User == nil && mayHoldPassword(u.RawQuery) {
		return o, errors.New("has an @ behind the ?, so a part of the password may be taken for a parameter; " +
			"in a user or password, ? is %3F and & is %26; in a parameter, @ is %40")
	}
	if port := u.Port(); port != "" && !isPort(port) {
		return o, errors.New("has a port that is not 1 to 65535")
	}
	if o, err = rueidis.ParseURL(s); err != nil {
		return o, errors.New("is not a URL of a store: the database is a number after the host, such as /0")
	}
	if err := setTLS(o.TLSConfig, u.Query()); err != nil {
		return o, err
	}
	o.DisableCache, o.DisableRetry, o.ForceSingleClient = true, true, false
	o.ReadBufferEachConn, o.WriteBufferEachConn, o.RingScaleEachConn = bufferSize, bufferSize, 6
	o.PipelineMultiplex = -1 // one connection to each server
	o.ClientName = "whirlpool"
	o.Sentinel.Username, o.Sentinel.Password = u.Query().Get("sentinel_user"), u.Query().Get("sentinel_password")
	o.Sentinel.TLSConfig, o.Sentinel.ClientName = o.TLSConfig, o.ClientName
	o.Sentinel.TopologyRefreshInterval = refreshSentinel
	return o, nil
}

// parameters are the parameters that a URL may have. rueidis has more of them, such as skip_verify, which turns the
// check of the store's certificate off.
var parameters = []string{"addr", "ca", "cert", "key", "master_set", "sentinel_password", "sentinel_user"}

// checkParameters checks the query of a URL. It returns an error if a parameter is not in parameters, if a parameter
// other than addr occurs twice, or if an addr is not HOST:PORT.
func checkParameters(query string) error {
	allowed := "the parameters are " + strings.Join(parameters, ", ")
	q, err := url.ParseQuery(query)
	if err != nil {
		return errors.New("has parameters that cannot be read; " + allowed)
	}
	names := slices.Sorted(maps.Keys(q))
	unknown := slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return slices.Contains(parameters, name)
	})
	switch {
	case len(unknown) == 0:
	case len(unknown) > 1 || strings.Contains(query, "@") || q.Has("sentinel_password"):
		// a name may be a part of a password
		return errors.New("has an unknown parameter; " + allowed + "; in a user or password, ? is %3F and & is %26")
	default:
		return fmt.Errorf("has an unknown parameter %q; %s", unknown[0], allowed)
	}
	for _, name := range names {
		if len(q[name]) > 1 && name != "addr" {
			return fmt.Errorf("has the parameter %s twice", name)
		}
	}
	for _, addr := range q["addr"] {
		if host, port, err := net.SplitHostPort(addr); err != nil || !isPort(port) || host == "" {
			return errors.New("has an addr that is not HOST:PORT")
		}
	}
	return nil
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// mayHoldPassword reports whether the query of a URL without a user may contain the end of a password and the host, as
// in redis://user:12?ca=34@host. Only the parameter sentinel_password may contain an @.
func mayHoldPassword(query string) bool {
	return slices.ContainsFunc(strings.Split(query, "&"), func(parameter string) bool {
		return strings.Contains(parameter, "@") && !strings.HasPrefix(parameter, "sentinel_password=")
	})
}

// setTLS sets the certificate authority and the client certificate of c. The parameters q of the URL have the names of
// their files. If the scheme of the URL is not one for TLS, c is nil.
func setTLS(c *tls.Config, q url.Values) error {
	ca, cert, key := q.Get("ca"), q.Get("cert"), q.Get("key")
	if c == nil {
		if ca != "" || cert != "" || key != "" {
			return errors.New("has ca, cert or key without TLS: the scheme must be rediss")
		}
		return nil
	}
	c.ServerName = "" // empty: taken from each server's address, because Sentinels and clusters have several servers
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return fmt.Errorf("has a ca that cannot be read: %w", err)
		}
		if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("has a ca without a certificate in PEM: %s", ca)
		}
	}
	if cert != "" || key != "" {
		load := func() (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(cert, key)
			return &pair, err
		}
		if _, err := load(); err != nil {
			return fmt.Errorf("has a cert and key that cannot be used: %w", err)
		}
		// Each connection reads the files, because they may have been renewed.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return nil
}

// Store is a store in Redis or Valkey. It is safe for concurrent use. It connects at the first exchange.
type Store struct {
	opts   rueidis.ClientOption
	keys   []string
	script *rueidis.Lua

	mu         sync.Mutex     // guards the fields down to closed
	client     rueidis.Client // nil before the first exchange that reaches the store
	err        error          // of the last attempt to make the client
	connecting chan struct{}  // closed when makeClient ends; nil while it does not run
	closed     bool

	prefix      string     // of all keys
	blobMu      sync.Mutex // held while the client for blobs is made
	blobs       rueidis.Client
	blobsClosed bool
	noNews      atomic.Bool // the store does not permit Listen
}

// New returns the store of the cluster with the given name. All its keys begin with whirlpool:{NAME}, so that a Redis
// Cluster keeps them in one slot. New returns the errors of CheckURL. Making a connection takes at most dialTimeout.
func New(url, name string, dialTimeout time.Duration) (*Store, error) {
	o, err := options(url)
	if err != nil {
		return nil, err
	}
	o.Dialer.Timeout, o.ConnWriteTimeout = dialTimeout, dialTimeout
	o.Sentinel.Dialer = o.Dialer
	s := &Store{opts: o, script: rueidis.NewLuaScript(script), prefix: "whirlpool:{" + name + "}:"}
	for _, part := range []string{"meta", "records", "order", "leases", "ends", "draws"} {
		s.keys = append(s.keys, s.prefix+part)
	}
	return s, nil
}

// connect returns the client, and makes it if there is none. If some of several servers are down, making the client
// may take longer than one exchange. The next exchange then waits for the client that is being made.
func (s *Store) connect(ctx context.Context) (rueidis.Client, error) {
	s.mu.Lock()
	if s.client == nil && s.connecting == nil && !s.closed {
		s.connecting = make(chan struct{})
		go s.makeClient()
	}
	connecting := s.connecting
	s.mu.Unlock()
	if connecting != nil {
		select {
		case <-connecting:
		case <-ctx.Done():
			s.mu.Lock()
			defer s.mu.Unlock()
			return nil, cmp.Or(s.err, fmt.Errorf("no connection to the store yet: %w", ctx.Err()))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, errClosed
	case s.client == nil:
		return nil, s.err
	}
	return s.client, nil
}

func (s *Store) makeClient() {
	client, err := rueidis.NewClient(s.opts)
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.connecting)
	s.connecting, s.err = nil, err
	switch {
	case err != nil:
	case s.closed:
		client.Close()
	default:
		s.client = client
	}
}

// Close closes the connections.
func (s *Store) Close() {
	s.closeBlobs()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.client != nil {
		s.client.Close()
		s.client = nil
	}
}

var kinds = map[cluster.Kind]string{
	cluster.Put: "put", cluster.Swap: "swap", cluster.Acquire: "acquire", cluster.Free: "free",
	cluster.Settle: "settle", cluster.Void: "void", cluster.Share: "share",
}

// Exchange implements cluster.Store.
func (s *Store) Exchange(ctx context.Context, b cluster.Batch) (cluster.Reply, error) {
	c, err := s.connect(ctx)
	if err != nil {
		return cluster.Reply{}, err
	}
	args := make([]string, 0, 4+6*len(b.Ops))
	args = append(args, b.Epoch, strconv.FormatInt(b.Cursor, 10), strconv.Itoa(b.Limit), s.newsChannel())
	for _, op := range b.Ops {
		age := op.Age.Milliseconds()
		if !op.At.IsZero() {
			age = -op.At.UnixMilli()
		}
		ttl := op.TTL.Milliseconds()
		if op.TTL > 0 {
			ttl = max(ttl, 1) // 0 would mean that the record has no end
		}
		value := op.Value
		if op.Request != nil {
			value, age = op.Request.Value(), op.Request.RecordTime.Milliseconds()
		}
		kind := kinds[op.Kind]
		if op.Urgent {
			kind += "!"
		}
		args = append(args, kind, op.Key, value, strconv.FormatInt(op.Rev, 10),
			strconv.FormatInt(age, 10), strconv.FormatInt(ttl, 10))
	}
	parts, err := s.script.Exec(ctx, c, s.keys, args).ToArray()
	if err != nil {
		return cluster.Reply{}, err
	}
	return parse(parts, b.Ops)
}

func parse(parts []rueidis.RedisMessage, ops []cluster.Op) (r cluster.Reply, err error) {
	if len(parts) != 6 {
		return r, fmt.Errorf("the store's response has %d parts, not 6", len(parts))
	}
	if r.Epoch, err = parts[0].ToString(); err != nil {
		return r, err
	}
	if r.Cursor, err = number(&parts[1]); err != nil {
		return r, err
	}
	more, err := parts[2].ToInt64()
	if err != nil {
		return r, err
	}
	r.More = more == 1
	now, err := number(&parts[3])
	if err != nil {
		return r, err
	}
	r.Now = time.UnixMilli(now)
	results, err := parts[4].ToArray()
	if err != nil {
		return r, err
	}
	if len(results) != len(ops) {
		return r, fmt.Errorf("the store gave %d results for %d operations", len(results), len(ops))
	}
	r.Results = make([]int64, len(results))
	for i := range results {
		if ops[i].Kind == cluster.Share {
			text, err := results[i].ToString()
			if err != nil {
				return r, err
			}
			d, err := cluster.ParseShareReply(text)
			if err != nil {
				return r, err
			}
			r.Results[i], r.ShareReplies = 1, append(r.ShareReplies, d)
			continue
		}
		if r.Results[i], err = number(&results[i]); err != nil {
			return r, err
		}
	}
	changed, err := parts[5].AsStrSlice()
	if err != nil {
		return r, err
	}
	for i := 0; i+1 < len(changed); i += 2 {
		rec, err := parseRecord(changed[i], changed[i+1])
		if err != nil {
			return r, err
		}
		r.Changed = append(r.Changed, rec)
	}
	return r, nil
}

func number(m *rueidis.RedisMessage) (int64, error) {
	s, err := m.ToString()
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(s, 10, 64)
}

// parseRecord parses the text of a record, "REVISION AT ENDS VALUE". AT is the time of the record's event, and ENDS is
// the time at which the record ends; 0 if it does not end. Both are in ms since the Unix epoch.
func parseRecord(key, text string) (cluster.Record, error) {
	rec := cluster.Record{Key: key}
	var numbers [3]int64
	for i := range numbers {
		word, rest, found := strings.Cut(text, " ")
		n, err := strconv.ParseInt(word, 10, 64)
		if !found || err != nil {
			return rec, fmt.Errorf("the store's record %q has the form of another version", key)
		}
		numbers[i], text = n, rest
	}
	rec.Rev, rec.At, rec.Value = numbers[0], time.UnixMilli(numbers[1]), text
	if numbers[2] > 0 {
		rec.Ends = time.UnixMilli(numbers[2])
	}
	return rec, nil
}
