package changes_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core/changes"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/state"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// session returns an entry without an id, of a vendor with one host and port for all entries.
func session(user string) upstream.Spec {
	a := upstream.Address{Scheme: upstream.HTTP, Host: "h:1", Username: user, Password: "hunter2"}
	return upstream.Spec{Address: a, Weight: 1, Source: "list.txt"}
}

func sessions(users ...string) (specs []upstream.Spec) {
	for _, user := range users {
		specs = append(specs, session(user))
	}
	return specs
}

// pooled returns ID=WEIGHT of the proxies in the pool, by user name.
func (r *rig) pooled() map[string]string {
	out := map[string]string{}
	for _, s := range r.specs() {
		out[s.Address.Username] = fmt.Sprintf("%s=%v", s.ID, s.Weight)
	}
	return out
}

// Entries that share host and port keep their ids and their recorded changes if the list changes while the gateway does
// not run, or while it runs.
func TestSharedHostAndPort(t *testing.T) {
	for name, load := range map[string]func(*rig){"restart": (*rig).start, "reload": (*rig).reload} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, t.TempDir())
			r.config.Proxies = sessions("a", "b", "c")
			r.start()
			require.NoError(t, r.RemoveProxy("h:1-2", false, true))
			_, err := r.ChangeProxy("h:1-3", weight(4), true)
			require.NoError(t, err)
			for _, step := range []struct {
				list string
				want map[string]string
			}{
				{"b c", map[string]string{"c": "h:1-3=4"}},
				{"x b a c", map[string]string{"x": "h:1-4=1", "a": "h:1=1", "c": "h:1-3=4"}},
				{"c x", map[string]string{"c": "h:1-3=4", "x": "h:1-4=1"}},
				{"", map[string]string{}},
				{"y a", map[string]string{"y": "h:1-4=1", "a": "h:1=1"}}, // y does not take the ids of b and c
				{"c b y", map[string]string{"c": "h:1-3=4", "y": "h:1-4=1"}},
			} {
				r.config.Proxies = sessions(strings.Fields(step.list)...)
				load(r)
				require.Equal(t, step.want, r.pooled(), step.list)
			}
			require.NotContains(t, r.log.String(), "do not apply any more")
			api := sessions("api", "b")
			api[0].Source, api[1].Source = upstream.SourceAPI, upstream.SourceAPI
			added, err := r.AddProxies(api, true)
			require.NoError(t, err)
			require.Equal(t, "h:1", added[0].ID(), "that of an entry that has left, without a recorded change")
			require.Equal(t, "h:1-2", added[1].ID(), "the removed one is back")
			load(r)
			require.Equal(t, map[string]string{
				"c": "h:1-3=4", "y": "h:1-4=1", "api": "h:1=1", "b": "h:1-2=1",
			}, r.pooled())
		})
	}
}

// A changed password does not change the id, and ends the recorded change of the proxy: the
// configuration takes precedence.
func TestAChangedPasswordKeepsTheID(t *testing.T) {
	for name, load := range map[string]func(*rig){"restart": (*rig).start, "reload": (*rig).reload} {
		for _, users := range [][]string{{"a"}, {"x", "a"}} {
			r := newRig(t, t.TempDir())
			r.config.Proxies = sessions(users...)
			r.start()
			id, _, _ := strings.Cut(r.pooled()["a"], "=")
			_, err := r.ChangeProxy(id, weight(4), true)
			require.NoError(t, err)
			changed := session("a")
			changed.Address.Password = "hunter3"
			r.config.Proxies = append([]upstream.Spec{changed}, sessions(users[:len(users)-1]...)...)
			load(r)
			require.Equal(t, id+"=1", r.pooled()["a"], name)
			require.Contains(t, r.log.String(), "changes=[proxy/"+id+"]")
		}
	}
	r := newRig(t, t.TempDir())
	r.config.Proxies = sessions("a")
	r.start()
	r.config.Proxies = sessions("another")
	r.start()
	require.Equal(t, map[string]string{"another": "h:1=1"}, r.pooled(), "the only one with this host and port")
}

// After any sequence of changes, lists, reloads and restarts, each entry has the id and the recorded change that it
// had before.
func TestIDsStayWithTheirEntries(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		for _, name := range []string{"changes", "ids"} {
			require.NoError(t, os.RemoveAll(filepath.Join(dir, name)))
		}
		r := newRig(t, dir)
		var list []string
		ids, recorded := map[string]string{}, map[string]float64{} // by user; the weight of a removed entry is 0
		check := func() {
			want := map[string]string{}
			for _, s := range r.specs() {
				user := s.Address.Username
				if id, had := ids[user]; had {
					require.Equal(t, id, s.ID, user)
				}
				ids[user] = s.ID
			}
			for _, user := range list {
				w, changed := recorded[user]
				if !changed {
					w = 1
				}
				if w > 0 {
					want[user] = fmt.Sprintf("%s=%v", ids[user], w)
				}
			}
			require.Equal(t, want, r.pooled())
			for user := range ids { // the id of a removed entry may get another owner
				if _, changed := recorded[user]; !changed && !slices.Contains(list, user) {
					delete(ids, user)
				}
			}
		}
		edit := func(t *rapid.T) {
			users := rapid.SampledFrom([]string{"a", "b", "c", "d", "e"})
			some := rapid.SliceOfDistinct(users, rapid.ID).Draw(t, "list")
			list = rapid.Permutation(append(some, "x", "y")).Draw(t, "order") // so that the place is always shared
			r.config.Proxies = sessions(list...)
		}
		edit(t)
		r.start()
		check()
		user := func(t *rapid.T) (name, id string) {
			name = rapid.SampledFrom(slices.Sorted(maps.Keys(r.pooled()))).Draw(t, "user")
			return name, ids[name]
		}
		t.Repeat(map[string]func(*rapid.T){
			"reload":  func(t *rapid.T) { edit(t); r.reload(); check() },
			"restart": func(t *rapid.T) { edit(t); r.start(); check() },
			"change": func(t *rapid.T) {
				if len(r.pooled()) == 0 {
					return
				}
				name, id := user(t)
				recorded[name] = float64(rapid.IntRange(2, 9).Draw(t, "weight"))
				_, err := r.ChangeProxy(id, weight(recorded[name]), true)
				require.NoError(t, err)
			},
			"remove": func(t *rapid.T) {
				if len(r.pooled()) < 2 {
					return
				}
				name, id := user(t)
				recorded[name] = 0
				require.NoError(t, r.RemoveProxy(id, false, true))
			},
		})
	})
}

// If the fingerprints cannot be compared, because their key is lost, changes are made to the proxies with their ids,
// and the log names them.
func TestTheKeyOfFingerprintsIsLost(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir)
	r.config.Proxies = sessions("a", "b", "c")
	r.start()
	require.NoError(t, r.RemoveProxy("h:1-2", false, true))
	_, err := r.ChangeProxy("h:1-3", weight(4), true)
	require.NoError(t, err)
	require.NoError(t, os.Remove(filepath.Join(dir, "ids")))
	want := map[string]string{"a": "h:1=1", "c": "h:1-3=4"}
	r.start()
	require.Equal(t, want, r.pooled())
	require.Contains(t, r.log.String(), "[proxy/h:1-2 proxy/h:1-3]")
	r.log.Reset()
	r.config.Proxies = sessions("c", "b", "a")
	r.start()
	require.Equal(t, want, r.pooled())
	require.Empty(t, r.log.String())
}

// The folder has no text from which a password could be guessed without the key, which is only in the file of
// ids. Entries that are recognized without a saved id are not saved, and those that have left the configuration
// are deleted after a day.
func TestTheFileOfIDs(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir)
	free := upstream.Spec{Address: upstream.Address{Scheme: upstream.HTTP, Host: "free:1"}, Weight: 1}
	r.config.Proxies = append(sessions("alice", "b"), free)
	r.start()
	require.NoError(t, r.RemoveProxy("h:1", false, true))
	for _, file := range []string{"ids", "changes"} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		require.NoError(t, err)
		require.NotContains(t, string(text), "hunter2")
		require.NotContains(t, string(text), "alice")
	}
	saved := func() (ids []string) {
		file, _, err := state.OpenStore(r.fs, r.file, "ids", time.Now)
		require.NoError(t, err)
		defer file.Close()
		for id := range file.All() {
			if id != "" {
				ids = append(ids, id)
			}
		}
		slices.Sort(ids)
		return ids
	}
	require.Equal(t, []string{"h:1", "h:1-2"}, saved())
	r.config.Proxies = sessions("alice")
	r.reload()
	r.now = r.now.Add(23 * time.Hour)
	r.start()
	require.Equal(t, []string{"h:1", "h:1-2"}, saved())
	r.now = r.now.Add(2 * time.Hour)
	r.reload()
	require.Equal(t, []string{"h:1"}, saved())

	// A full disk prevents neither a reload nor a start.
	r.fs.full = true
	r.config.Proxies = sessions("c", "alice")
	r.reload()
	require.Equal(t, map[string]string{"c": "h:1-2=1"}, r.pooled())
	require.Contains(t, r.log.String(), "automatic ids of proxies cannot be saved")
	r.fs.full = false
	r.reload()
	require.Equal(t, []string{"h:1", "h:1-2"}, saved())
}

// A record that this version cannot use is not in force, is named in the log, and stays until its change is made again.
func TestUnusableRecords(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.start()
	four := 4
	require.NoError(t, r.store.Write(map[string]any{
		"policy":       map[string]any{"file": map[string]any{}, "policy": map[string]any{"unheard_of": 1}},
		"proxy/x":      map[string]any{"scheme": "http", "host": "h:1", "weight": -1},
		"plugin/other": map[string]any{"configured": "a", "active": "b"}, "other": 1,
		"plugin/first": map[string]any{"configured": "a", "active": "gone"},
		"plugin/judge": map[string]any{"configured": "none", "active": "j"},
	}))
	r.start()
	inForce := func() map[string]bool {
		list, ok := r.RecordedChanges()
		require.True(t, ok)
		out := map[string]bool{}
		for _, c := range list {
			out[c.Key] = c.InForce
		}
		return out
	}
	want := map[string]bool{"policy": false, "proxy/x": false, "plugin/other": false, "other": false,
		"plugin/first": false, "plugin/judge": true}
	require.Equal(t, want, inForce())
	for _, part := range []string{"change=policy", "unheard_of", "change=proxy/x", "weight is -1", "change=other",
		"change=plugin/other", r.store.Path(), "whirlpool state clear --key"} {
		require.Contains(t, r.log.String(), part)
	}
	r.reload()
	require.Equal(t, want, inForce())
	_, err := r.ChangePolicy(retryOverride(four), true)
	require.NoError(t, err)
	require.NoError(t, r.Activate(changes.UseFirst, "b", true))
	want["policy"], want["plugin/first"] = true, true
	require.Equal(t, want, inForce())
}

func retryOverride(attempts int) retry.Override { return retry.Override{MaxAttempts: &attempts} }
