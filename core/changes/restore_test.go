package changes_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/changes"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// A restored proxy has all its settings again, its password among them.
func TestRestore(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.config.Proxies = []upstream.Spec{proxy("p", 2)}
	r.start()
	_, err := r.AddProxies([]upstream.Spec{added("x", 3)}, true)
	require.NoError(t, err)
	_, err = r.ChangeProxy("p", weight(4), true)
	require.NoError(t, err)
	before := r.specs()
	for _, id := range []string{"p", "x"} {
		require.NoError(t, r.RemoveProxy(id, false, true))
	}
	for _, id := range []string{"p", "x"} {
		u, err := r.RestoreProxy(id, true)
		require.NoError(t, err)
		require.Equal(t, "pass", u.Spec().Address.Password.Reveal())
	}
	require.ElementsMatch(t, before, r.specs())
	_, err = r.RestoreProxy("x", true)
	require.ErrorIs(t, err, core.ErrNotFound, "it is restored already")
	r.start()
	require.Equal(t, map[string]float64{"p": 4, "x": 3}, r.weights())
}

// A draining proxy is restored while an attempt is in flight, also after a second removal.
func TestRestoreOfAProxyThatDrains(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.config.Proxies = []upstream.Spec{proxy("p", 2)}
	r.start()
	lease, ok := r.pool.Snapshot().Get("p").Acquire(time.Now())
	require.True(t, ok)
	defer lease.Release()
	require.NoError(t, r.RemoveProxy("p", true, true))
	require.NoError(t, r.RemoveProxy("p", true, true))
	require.True(t, r.pool.Snapshot().Get("p").Draining())
	u, err := r.RestoreProxy("p", true)
	require.NoError(t, err)
	require.False(t, u.Draining())
	require.Equal(t, u, r.pool.Snapshot().Get("p"))
}

func TestARestoreInTime(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.config.Proxies = []upstream.Spec{proxy("p", 2)}
	r.start()
	require.NoError(t, r.RemoveProxy("p", false, true))
	r.now = r.now.Add(changes.RestoreTime + time.Second)
	_, err := r.RestoreProxy("p", true)
	require.EqualError(t, err, `proxy "p" was not removed in the last 10 minutes: not found`)
}

// If the record cannot be written, the proxy stays removed, and can be restored later.
func TestARestoreThatCannotBeKept(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.config.Proxies = []upstream.Spec{proxy("p", 2)}
	r.start()
	require.NoError(t, r.RemoveProxy("p", false, true))
	r.fs.full = true
	_, err := r.RestoreProxy("p", true)
	require.ErrorIs(t, err, errFull)
	require.Empty(t, r.weights())
	r.fs.full = false
	_, err = r.RestoreProxy("p", true)
	require.NoError(t, err)
}
