package redisstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core/cluster"
	"github.com/whirlpool-proxy/whirlpool/core/cluster/redisstore"
)

// startRedis runs a redis-server and returns its URL.
func startRedis(t testing.TB) string {
	port := freePort(t)
	startServer(t, port, "--port", port)
	return "redis://127.0.0.1:" + port
}

var stores int

func newStore(t require.TestingT, url string) *redisstore.Store {
	stores++
	s, err := redisstore.New(url, fmt.Sprintf("test%d", stores), patience)
	require.NoError(t, err)
	return s
}

// key returns the key of the last store that ends with suffix.
func key(suffix string) string { return fmt.Sprintf("whirlpool:{test%d}%s", stores, suffix) }

// The store in Redis gives the same results as the store in memory, for any operations. The clock of the store in
// memory follows the clock of Redis. During the test no record or lease ends, except those that end at once.
func TestRedisIsLikeTheMemory(t *testing.T) {
	url := startRedis(t)
	rapid.Check(t, func(t *rapid.T) {
		real := newStore(t, url)
		defer real.Close()
		var now time.Time
		memory := cluster.NewMemory(func() time.Time { return now })
		keys := rapid.SampledFrom([]string{"a", "b", "c d"})
		epochs, cursors := [2]string{}, [2]int64{}
		revs := [2][]int64{{0}, {0}} // revisions and fencing numbers so far
		for range rapid.IntRange(1, 12).Draw(t, "exchanges") {
			var batches [2]cluster.Batch
			limit := rapid.SampledFrom([]int{1, 2, 100}).Draw(t, "limit")
			for i := range batches {
				batches[i] = cluster.Batch{Epoch: epochs[i], Cursor: cursors[i], Limit: limit}
			}
			for range rapid.IntRange(0, 4).Draw(t, "ops") {
				op := cluster.Op{
					Kind: cluster.Kind(rapid.IntRange(1, 7).Draw(t, "kind")), Key: keys.Draw(t, "key"),
					Value: rapid.SampledFrom([]string{"x", "y", "a b"}).Draw(t, "value"),
				}
				switch op.Kind {
				case cluster.Put, cluster.Swap, cluster.Settle:
					op.TTL = rapid.SampledFrom([]time.Duration{0, time.Hour}).Draw(t, "ttl")
				case cluster.Acquire:
					// longer than the age of the store, or ended immediately
					op.TTL = rapid.SampledFrom([]time.Duration{time.Hour, 0}).Draw(t, "ttl")
				}
				if op.Kind == cluster.Share {
					amount := rapid.OneOf(rapid.Int64Range(0, 12), rapid.Int64Range(0, 1<<50))
					op.TTL = rapid.SampledFrom([]time.Duration{time.Hour, time.Millisecond}).Draw(t, "ttl")
					op.Request = &cluster.ShareRequest{
						Holder: rapid.SampledFrom([]string{"m", "n", "o"}).Draw(t, "holder"),
						Daily:  rapid.Bool().Draw(t, "daily"), RecordTime: time.Hour, Limit: amount.Draw(t, "limit"),
						Used: amount.Draw(t, "used"), Share: amount.Draw(t, "share"), Want: amount.Draw(t, "want"),
						MaxWhileSettling: amount.Draw(t, "young"),
					}
				}
				if op.Kind == cluster.Put {
					op.Age = time.Duration(rapid.SampledFrom([]int{0, 1, 2}).Draw(t, "age")) * time.Hour
					if rapid.Bool().Draw(t, "absolute") {
						op.Age, op.At = 0, time.UnixMilli(rapid.SampledFrom([]int64{1000, 1 << 50}).Draw(t, "at"))
					}
				}
				known := rapid.IntRange(0, len(revs[0])-1).Draw(t, "rev")
				for i := range batches {
					op.Rev = revs[i][known]
					batches[i].Ops = append(batches[i].Ops, op)
				}
			}
			got, err := real.Exchange(context.Background(), batches[0])
			require.NoError(t, err)
			now = got.Now
			want, err := memory.Exchange(context.Background(), batches[1])
			require.NoError(t, err)
			require.Len(t, got.Results, len(want.Results))
			for i := range want.Results {
				require.Equal(t, want.Results[i] > 0, got.Results[i] > 0, "%+v", batches[0].Ops[i])
				if want.Results[i] > 0 {
					revs[0], revs[1] = append(revs[0], got.Results[i]), append(revs[1], want.Results[i])
				}
			}
			require.Equal(t, want.ShareReplies, got.ShareReplies)
			require.Equal(t, want.More, got.More)
			require.Len(t, got.Changed, len(want.Changed))
			for i, w := range want.Changed {
				g := got.Changed[i]
				require.Equal(t, w.Key, g.Key)
				require.Equal(t, w.Value, g.Value)
				require.True(t, w.At.Equal(g.At), "%v %v", w.At, g.At)
				require.True(t, w.Ends.Equal(g.Ends), "%v %v", w.Ends, g.Ends)
			}
			epochs, cursors = [2]string{got.Epoch, want.Epoch}, [2]int64{got.Cursor, want.Cursor}
		}
	})
}

// A record whose lifetime is below the store's unit of time ends.
func TestShortRecordEnds(t *testing.T) {
	now := time.Now()
	memory := cluster.NewMemory(func() time.Time { now = now.Add(time.Millisecond); return now })
	for _, s := range []cluster.Store{newStore(t, startRedis(t)), memory} {
		for _, ttl := range []time.Duration{1, time.Microsecond, time.Millisecond - 1} {
			op := cluster.Op{Kind: cluster.Put, Key: "k", Value: ttl.String(), TTL: ttl}
			r, err := s.Exchange(context.Background(), cluster.Batch{Limit: 1, Ops: []cluster.Op{op}})
			require.NoError(t, err)
			require.Len(t, r.Changed, 1)
			require.Equal(t, r.Now.Add(time.Millisecond), r.Changed[0].Ends)
		}
		s.Close()
	}
}

func TestLeaseHasAFence(t *testing.T) {
	ctx, s := context.Background(), newStore(t, startRedis(t))
	do := func(ops ...cluster.Op) []int64 {
		r, err := s.Exchange(ctx, cluster.Batch{Limit: 1, Ops: ops})
		require.NoError(t, err)
		return r.Results
	}
	acquire := func(holder string) int64 {
		return do(cluster.Op{Kind: cluster.Acquire, Key: "p", Value: holder, TTL: 100 * time.Millisecond})[0]
	}
	require.Zero(t, acquire("a"), "the store may have lost a lease")
	var first int64
	require.Eventually(t, func() bool { first = acquire("a"); return first > 0 }, time.Minute, time.Millisecond)
	var second int64
	require.Eventually(t, func() bool { second = acquire("b"); return second > 0 }, time.Minute, time.Millisecond)
	require.Greater(t, second, first)
	require.Zero(t, do(cluster.Op{Kind: cluster.Settle, Key: "p", Value: "closed", Rev: first})[0],
		"the lease has passed to b")
	require.NotZero(t, do(cluster.Op{Kind: cluster.Put, Key: "p", Value: "open"})[0])
	do(cluster.Op{Kind: cluster.Free, Key: "p", Rev: second})
	require.Zero(t, acquire("a"), "the record has changed")
}

func TestURLs(t *testing.T) {
	for _, good := range []string{
		"redis://h", "redis://127.0.0.1:6379", "rediss://user:secret@h:6380/2",
		"redis://h:26379?addr=i:26379&master_set=main", "valkey://h", "valkeys://h:6380",
	} {
		require.NoError(t, redisstore.CheckURL(good), good)
	}
	for _, bad := range []string{
		"", "h:6379", "http://h", "redis://", "redis://u:secret@h/x", "redis://:secret@h:x", "redis://u:1#secret@h",
		"redis://u:1?secret@h", "redis://u:1?secret=2@h", "redis://u:1?addr=secret@h", "redis://h?secret=%zz",
	} {
		err := redisstore.CheckURL(bad)
		require.Error(t, err, bad)
		require.NotContains(t, err.Error(), "secret")
	}
	for _, password := range []string{
		"rediss://u:1?ca=secret@h", "rediss://:1?cert=a&key=secret@h:6379/0", "redis://u:1?master_set=secret@h:6379",
		"rediss://u:1?sentinel_password=secret&key=secret@h",
	} {
		err := redisstore.CheckURL(password)
		require.ErrorContains(t, err, "in a user or password, ? is %3F and & is %26", password)
		require.NotContains(t, err.Error(), "secret")
	}
	for _, port := range []string{"0", "65536", "99999?addr=i:1"} {
		require.EqualError(t, redisstore.CheckURL("redis://:secret@h:"+port), "has a port that is not 1 to 65535")
	}
	require.NoError(t, redisstore.CheckURL("redis://u:1%3Fca=secret@h"))
	require.NoError(t, redisstore.CheckURL("redis://h?master_set=m%40n&sentinel_password=p@ss"))
	require.Equal(t, "rediss://h:6380/2", redisstore.Redacted("rediss://user:secret@h:6380/2?x=secret"))
}

// Only the parameters that docs/cluster.md names are allowed: rueidis has other parameters, for example one that turns
// off the check of certificates.
func TestParameters(t *testing.T) {
	const (
		allowed = "the parameters are addr, ca, cert, key, master_set, sentinel_password, sentinel_user"
		unnamed = "has an unknown parameter; " + allowed + "; in a user or password, ? is %3F and & is %26"
	)
	for query, want := range map[string]string{
		"skip_verify":                   `has an unknown parameter "skip_verify"; ` + allowed,
		"skip_verify=false":             `has an unknown parameter "skip_verify"; ` + allowed,
		"master_set=m&Master_set=n":     `has an unknown parameter "Master_set"; ` + allowed,
		"db=1":                          `has an unknown parameter "db"; ` + allowed,
		"client_name=secret":            `has an unknown parameter "client_name"; ` + allowed,
		"master_set=m&master_set=m":     "has the parameter master_set twice",
		"addr=i:1&addr=sentinel2":       "has an addr that is not HOST:PORT",
		"addr=:1":                       "has an addr that is not HOST:PORT",
		"addr=i:0":                      "has an addr that is not HOST:PORT",
		"addr=i:65536":                  "has an addr that is not HOST:PORT",
		"addr=i:1&addr=[::1]:2":         "",
		"sentinel_password=%26&addr=i:": "has an addr that is not HOST:PORT",
		"sentinel_password=p@ss%26":     "",

		"master_set=m&sentinel_password=ab&cd": unnamed,
		"sentinel_password=ab&cd=ef":           unnamed,
		"sentinel_pass=ab&cd":                  unnamed,
		"ab&cd@h":                              unnamed,
	} {
		err := redisstore.CheckURL("rediss://u:secret@h:6380/2?" + query)
		if want == "" {
			require.NoError(t, err, query)
			continue
		}
		require.EqualError(t, err, want, query)
	}
	page, err := os.ReadFile("../../../docs/cluster.md")
	require.NoError(t, err)
	for name := range strings.SplitSeq(strings.TrimPrefix(allowed, "the parameters are "), ", ") {
		require.Contains(t, string(page), name+"=")
	}
}

// The commands that docs/cluster.md names are enough for a user of the store. The error of a wrong password does not
// quote it.
func TestUserOfTheStore(t *testing.T) {
	page, err := os.ReadFile("../../../docs/cluster.md")
	require.NoError(t, err)
	commands := regexp.MustCompile("needs\\s+`([^`]+)`").FindSubmatch(page)
	require.NotNil(t, commands)
	server, err := url.Parse(startRedis(t))
	require.NoError(t, err)
	args := []string{"-p", server.Port(), "ACL", "SETUSER", "gw", "on", ">secret", "~whirlpool:*", "&whirlpool:*"}
	out, err := exec.Command("redis-cli", append(args, strings.Fields(string(commands[1]))...)...).CombinedOutput()
	require.NoError(t, err)
	require.Equal(t, "OK\n", string(out))
	server.User = url.UserPassword("gw", "secret")
	s := newStore(t, server.String())
	defer s.Close()
	for kind := cluster.Put; kind <= cluster.Share; kind++ {
		ops := []cluster.Op{{Kind: kind, Key: "k", TTL: time.Second}, {Kind: kind, Key: "l"}}
		if kind == cluster.Share {
			ops[0].Request = &cluster.ShareRequest{Holder: "a", Limit: 1, Share: 1, RecordTime: time.Second}
			ops[1].Request = &cluster.ShareRequest{Holder: "a", Limit: 1, RecordTime: time.Second}
		}
		_, err = s.Exchange(context.Background(), cluster.Batch{Limit: 1, Ops: ops}) // there are more records
		require.NoError(t, err)
	}
	heard, listened := make(chan cluster.News, 1), make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		listened <- s.Listen(ctx, func(n cluster.News) {
			select {
			case heard <- n:
			default: // the news before has not been read yet
			}
		})
	}()
	op := cluster.Op{Kind: cluster.Put, Key: "k\x1f\"ü", Value: `{"a":1}`, Urgent: true}
	urgent := cluster.Batch{Limit: 5, Ops: []cluster.Op{op}}
	var reply cluster.Reply
	require.Eventually(t, func() bool {
		reply, err = s.Exchange(context.Background(), urgent)
		require.NoError(t, err)
		select {
		case n := <-heard:
			require.Equal(t, reply.Epoch, n.Epoch)
			require.Len(t, n.Records, 1)
			require.Equal(t, "k\x1f\"ü", n.Records[0].Key)
			require.Equal(t, `{"a":1}`, n.Records[0].Value)
			require.Positive(t, n.Records[0].Rev)
			return true
		case <-time.After(10 * time.Millisecond):
			return false
		}
	}, patience, time.Millisecond)
	cancel()
	require.Error(t, <-listened)
	args = []string{"-p", server.Port(), "ACL", "SETUSER", "gw", "resetchannels"}
	require.NoError(t, exec.Command("redis-cli", args...).Run())
	_, err = s.Exchange(context.Background(), urgent)
	require.NoError(t, err, "without the permission to publish")
	deaf := newStore(t, server.String())
	defer deaf.Close()
	require.ErrorIs(t, deaf.Listen(context.Background(), nil), cluster.ErrNoNews)
	_, err = deaf.Exchange(context.Background(), urgent)
	require.NoError(t, err)
	server.User = url.UserPassword("gw", "wrong-secret")
	_, err = newStore(t, server.String()).Exchange(context.Background(), cluster.Batch{Limit: 5})
	require.Error(t, err)
	require.NotContains(t, err.Error(), "secret")
}

// Blobs of any size are read as they were written. A blob ends unless its time is extended.
func TestBlobs(t *testing.T) {
	s := newStore(t, startRedis(t))
	defer s.Close()
	now := time.Now()
	memory := cluster.NewMemory(func() time.Time { return now })
	for _, blobs := range []cluster.Blobs{s, memory} {
		for _, size := range []int{0, 1, 256 << 10, 256<<10 + 1, 3 << 20} {
			name := fmt.Sprint("size", size)
			data := make([]byte, size)
			for i := range data {
				data[i] = byte(i * i >> 3)
			}
			_, err := blobs.ReadBlob(t.Context(), name, size)
			require.ErrorIs(t, err, cluster.ErrNoBlob)
			held, err := blobs.KeepBlob(t.Context(), name, time.Hour)
			require.NoError(t, err)
			require.False(t, held)
			for range 2 {
				require.NoError(t, blobs.WriteBlob(t.Context(), name, data, time.Hour))
				got, err := blobs.ReadBlob(t.Context(), name, size)
				require.NoError(t, err)
				require.Equal(t, size, len(got))
				require.True(t, bytes.Equal(data, got))
			}
			_, err = blobs.ReadBlob(t.Context(), name, size-1)
			require.ErrorContains(t, err, "at most", size)
			several, errs := blobs.ReadBlobs(t.Context(), []string{name, "none", name}, size)
			require.Equal(t, [][]byte{data, data}, [][]byte{several[0], several[2]})
			require.NoError(t, errors.Join(errs[0], errs[2]))
			require.ErrorIs(t, errs[1], cluster.ErrNoBlob)
			_, errs = blobs.ReadBlobs(t.Context(), []string{name}, size-1)
			require.ErrorContains(t, errs[0], "at most", size)
			held, err = blobs.KeepBlob(t.Context(), name, time.Second)
			require.NoError(t, err)
			require.True(t, held)
		}
		require.NoError(t, blobs.WriteBlob(t.Context(), "short", nil, time.Second))
	}
	await(t, func() bool {
		_, err := s.ReadBlob(t.Context(), "short", 9)
		return errors.Is(err, cluster.ErrNoBlob)
	})
	now = now.Add(time.Second)
	_, err := memory.ReadBlob(t.Context(), "short", 9)
	require.ErrorIs(t, err, cluster.ErrNoBlob)
	s.Close()
	require.Error(t, s.WriteBlob(t.Context(), "x", nil, time.Hour))
	_, errs := s.ReadBlobs(t.Context(), []string{"x", "y"}, 9)
	require.Error(t, errs[0])
	require.Error(t, errs[1])
}

// A broken entry in the store counts as none. It does not make an exchange fail, which would separate all nodes.
func TestBrokenEntries(t *testing.T) {
	server, err := url.Parse(startRedis(t))
	require.NoError(t, err)
	s := newStore(t, server.String())
	defer s.Close()
	exchange := func(ops ...cluster.Op) cluster.Reply {
		r, err := s.Exchange(context.Background(), cluster.Batch{Limit: 9, Ops: ops})
		require.NoError(t, err)
		return r
	}
	exchange()
	for _, args := range [][]string{
		{"HSET", key(":records"), "bad", "x y"}, {"ZADD", key(":order"), "1", "bad"},
		{"HSET", key(":records"), "worse", "x 2 0 {}"}, {"ZADD", key(":order"), "2", "worse"},
		{"HSET", key(":leases"), "bad", "x"}, {"HSET", key(":draws"), "bad", "x"},
		{"HSET", key(":draws"), "worse", "99999999999999 a 1"},
	} {
		out, err := exec.Command("redis-cli", append([]string{"-p", server.Port()}, args...)...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	share := func(key, holder string) cluster.Op {
		d := &cluster.ShareRequest{Holder: holder, Daily: true, Limit: 9, Used: 5, Share: 5, Want: 5,
			RecordTime: time.Minute}
		return cluster.Op{Kind: cluster.Share, Key: key, TTL: time.Minute, Request: d}
	}
	require.Empty(t, exchange().Changed)
	r := exchange(cluster.Op{Kind: cluster.Void, Key: "bad"}, cluster.Op{Kind: cluster.Put, Key: "bad", Value: "v"},
		share("bad", "a"), share("worse", "a"), share("bad", "a b"))
	require.Zero(t, r.Results[0])
	require.Positive(t, r.Results[1])
	require.Equal(t, []cluster.ShareReply{{Share: 5, FairShare: 5, TotalUsed: 5, HolderUsed: 5},
		{Share: 5, FairShare: 5, TotalUsed: 5, HolderUsed: 5}, {}},
		r.ShareReplies)
	require.Len(t, r.Changed, 1)
}
