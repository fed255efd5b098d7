package access

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
)

func newGuard() *Guard { return NewGuard(time.Now, slog.New(slog.DiscardHandler)) }

func at(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1234} }

// wrong and right are checks that reject and accept every password.
var (
	wrong = Check{WithoutHash: func() (ok, decided bool) { return false, true }}
	right = Check{WithoutHash: func() (ok, decided bool) { return true, true }}
)

func TestDelaysGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard()
		took := func(ip string) time.Duration {
			start := time.Now()
			result, _ := g.CheckLogin(t.Context(), Login{Listener: API, From: at(ip)}, wrong)
			require.Equal(t, Refused, result)
			return time.Since(start)
		}
		require.Equal(t, delayUnit, took("192.0.2.1"))
		require.Equal(t, 4*delayUnit, took("192.0.2.1"))
		require.Equal(t, 9*delayUnit, took("192.0.2.1"))
		require.Equal(t, delayUnit, took("192.0.2.2"), "each address has its own delay")
		require.Equal(t, delayUnit, took("2001:db8::1"))
		require.Equal(t, 4*delayUnit, took("2001:db8::2"), "a /64 of IPv6 is one address")
		require.Equal(t, delayUnit, took("2001:db8:0:1::1"))
		require.Equal(t, 16*delayUnit, took("::ffff:192.0.2.1"))
		for range 100 {
			took("192.0.2.1")
		}
		require.Equal(t, maxDelay, took("192.0.2.1"))
		time.Sleep(forgetAfter)
		require.Equal(t, delayUnit, took("192.0.2.1"))
		require.EqualValues(t, 110, g.Failed(API))
		require.Zero(t, g.Failed(Gateway))
	})
}

// A client that sends wrong passwords as fast as it gets responses can try only a few, however many
// connections it has. The right password is accepted without a delay.
func TestAFloodOfWrongPasswords(t *testing.T) {
	for connections, most := range map[int]int64{1: 20, 1000: 60} {
		synctest.Test(t, func(t *testing.T) {
			g := newGuard()
			users := NewUsers([]User{{Name: "ann", Password: "right"}}, nil)
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			var checked atomic.Int64
			var clients sync.WaitGroup
			for range connections {
				clients.Go(func() {
					for ctx.Err() == nil {
						l := Login{From: at("192.0.2.1"), User: "ann"}
						result, _ := g.CheckLogin(ctx, l, Check{WithoutHash: func() (ok, decided bool) {
							checked.Add(1)
							return false, true
						}})
						if result == Blocked {
							time.Sleep(1100 * time.Millisecond) // not at the time at which ctx ends
						}
					}
				})
			}
			clients.Wait()
			require.LessOrEqual(t, checked.Load(), most)
			require.Greater(t, checked.Load(), int64(5))
			start := time.Now()
			_, result, _ := users.Login(t.Context(), g, Login{From: at("192.0.2.1"), User: "ann"}, "right")
			require.Equal(t, Accepted, result)
			require.Zero(t, time.Since(start))
		})
	}
}

// While maxDelayed responses to an address are delayed, its further logins are refused at once, without a
// check.
func TestBlocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard()
		l := Login{From: at("192.0.2.1")}
		for range maxDelayed {
			go g.CheckLogin(t.Context(), l, wrong)
		}
		synctest.Wait()
		start := time.Now()
		result, retryAfter := g.CheckLogin(t.Context(), l, Check{WithoutHash: func() (ok, decided bool) {
			t.Error("it was checked")
			return true, true
		}})
		require.Equal(t, Blocked, result)
		require.Positive(t, retryAfter)
		require.Zero(t, time.Since(start))
		result, _ = g.CheckLogin(t.Context(), Login{From: at("192.0.2.2")}, right)
		require.Equal(t, Accepted, result, "other addresses are not affected")
		time.Sleep(maxDelay)
		result, _ = g.CheckLogin(t.Context(), l, right)
		require.Equal(t, Accepted, result)
	})
}

// ipv4 returns the i-th address of a network.
func ipv4(i int) net.Addr { return at(fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)) }

func TestMemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard()
		for i := range 3 * maxNetworks {
			g.CheckLogin(t.Context(), Login{From: ipv4(i)}, wrong)
		}
		require.Len(t, g.failureTable.networks, maxNetworks)
		require.Equal(t, maxNetworks, g.failureTable.idle[0].Len())
		time.Sleep(forgetAfter)
		g.CheckLogin(t.Context(), Login{From: ipv4(0)}, wrong)
		require.Len(t, g.failureTable.networks, 1)
	})
}

// A client that leaves does not end its delay. Otherwise it could try again at once on another connection.
func TestADelayContinuesWithoutTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard()
		left, leave := context.WithCancel(t.Context())
		leave()
		for range maxDelayed {
			g.CheckLogin(left, Login{From: at("192.0.2.1")}, wrong)
		}
		result, _ := g.CheckLogin(t.Context(), Login{From: at("192.0.2.1")}, right)
		require.Equal(t, Blocked, result)
		time.Sleep(maxDelay)
		result, _ = g.CheckLogin(t.Context(), Login{From: at("192.0.2.1")}, right)
		require.Equal(t, Accepted, result)
	})
}

// An attacker may own a whole IPv6 network: the number of passwords that are checked in a minute does not depend on
// the number of /64s in the network. A neighbour with a right password is accepted afterwards.
func TestNeighboursOfIPv6(t *testing.T) {
	for name, x := range map[string]struct {
		address string
		most    int64
	}{
		"a /48": {"2001:db8:1:%x::1", 3000},
		"a /32": {"2001:db8:%x::1", 24000},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGuard()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				var next, checked atomic.Int64
				var clients sync.WaitGroup
				for range 2000 {
					clients.Go(func() {
						for ctx.Err() == nil {
							l := Login{From: at(fmt.Sprintf(x.address, next.Add(1)&0xffff))}
							result, _ := g.CheckLogin(ctx, l, Check{WithoutHash: func() (ok, decided bool) {
								checked.Add(1)
								return false, true
							}})
							if result == Blocked {
								time.Sleep(1100 * time.Millisecond)
							}
						}
					})
				}
				clients.Wait()
				t.Logf("%d passwords checked in a minute", checked.Load())
				require.LessOrEqual(t, checked.Load(), x.most)
				time.Sleep(maxDelay)
				result, _ := g.CheckLogin(t.Context(), Login{From: at(fmt.Sprintf(x.address, 0xabcd))}, right)
				require.Equal(t, Accepted, result)
			})
		})
	}
}

// Some failed logins of neighbours in the same /48 do not lengthen the delay of a client that mistypes
// a password.
func TestFewFailuresOfNeighboursCostNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard()
		for i := range 31 {
			start := time.Now()
			g.CheckLogin(t.Context(), Login{From: at(fmt.Sprintf("2001:db8:1:%x::1", i))}, wrong)
			require.Equal(t, delayUnit, time.Since(start))
		}
	})
}

// An address with many failed logins keeps its count, however many other addresses fail.
func TestAFloodOfAddressesDoesNotResetADelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard()
		guess := func() time.Duration {
			start := time.Now()
			g.CheckLogin(t.Context(), Login{From: at("192.0.2.1")}, wrong)
			return time.Since(start)
		}
		for range 100 {
			guess()
		}
		for range 3 {
			for i := range 3 * maxNetworks {
				g.CheckLogin(t.Context(), Login{From: ipv4(i)}, wrong)
			}
			require.Equal(t, maxDelay, guess())
		}
	})
}

// In a full table, every network may have a running delay. All other addresses together then have few tries, but a
// right password from one of these addresses is still accepted.
func TestAFullTableLimitsAllOtherAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard()
		var checked atomic.Int64
		count := Check{WithoutHash: func() (ok, decided bool) { checked.Add(1); return false, true }}
		for i := range maxNetworks {
			for range maxDelayed {
				go g.CheckLogin(t.Context(), Login{From: ipv4(i)}, wrong)
			}
		}
		synctest.Wait()
		require.True(t, g.failureTable.isFull())
		end := time.Now().Add(5 * time.Millisecond)
		for i := maxNetworks; time.Now().Before(end); i += 1000 {
			for j := range 1000 {
				go g.CheckLogin(t.Context(), Login{From: ipv4(i + j)}, count)
			}
			time.Sleep(time.Millisecond)
		}
		require.LessOrEqual(t, checked.Load(), int64(5*maxDelayedOverflow))
		require.GreaterOrEqual(t, checked.Load(), int64(maxDelayedOverflow))
		require.Len(t, g.failureTable.networks, maxNetworks)
		time.Sleep(maxDelay)
		result, _ := g.CheckLogin(t.Context(), Login{From: at("192.0.2.1")}, right)
		require.Equal(t, Accepted, result)
	})
}

func TestFailedLoginsAreLogged(t *testing.T) {
	var out bytes.Buffer
	g := NewGuard(time.Now, slog.New(slog.NewTextHandler(&out, nil)))
	users := NewUsers([]User{{Name: "ann", Password: "canary-right"}}, nil)
	login := func(user string) {
		users.Login(t.Context(), g, Login{Listener: SOCKS5, From: at("192.0.2.1"), User: user}, "canary-wrong")
	}
	login("ann")
	require.Contains(t, out.String(), `level=WARN msg="login failed" listener=socks5 client=192.0.2.1 user=ann`)
	login(strings.Repeat("x", 10_000) + "\n")
	require.NotContains(t, out.String(), "canary")
	require.Less(t, out.Len(), 500)
}

func TestUsers(t *testing.T) {
	g := newGuard()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	list := []User{
		{Name: "ann", Password: bcryptOf(t, "open sesame"), Limits: Limits{Priority: core.PriorityLow}},
		{Name: "bob", Password: "plain"},
		{Name: "cert"},
	}
	users := NewUsers(list, nil)
	login := func(name, password string) *Account {
		a, result, _ := users.Login(t.Context(), newGuard(), Login{From: at("192.0.2.1"), User: name}, password)
		require.Equal(t, a != nil, result == Accepted)
		return a
	}
	require.Equal(t, core.PriorityLow, login("ann", "open sesame").Priority)
	require.Equal(t, "bob", login("bob", "plain").Name)
	for _, x := range [][2]string{
		{"ann", "plain"}, {"ann", ""}, {"ANN", "open sesame"}, {"bob", "open sesame"}, {"", ""}, {"eve", "open sesame"},
		{"eve", ""}, {"cert", ""}, {"cert", "open sesame"},
	} {
		require.Nil(t, login(x[0], x[1]), x)
	}
	_, result, _ := users.Login(cancelled, g, Login{From: at("192.0.2.1"), User: "ann"}, "another")
	require.Equal(t, Blocked, result, "no hash is computed for a client that has left")

	next := NewUsers([]User{list[0], {Name: "bob", Password: "changed"}}, users)
	ok, decided := next.byDigest(next.digester.digest("ann")).password.checkDigest(next.digester.digest("open sesame"))
	require.True(t, ok && decided, "a reload does not forget what was verified")
	users = next
	require.Nil(t, login("bob", "plain"))
	require.Nil(t, login("cert", ""))
	require.NotNil(t, login("bob", "changed"))
}

// countingHash counts the passwords that are compared with it.
type countingHash struct{ n *int }

func (h countingHash) matches(string) bool { *h.n++; return false }

// A failed login costs the same work, whether or not there is a user of that name, and whether or not the user has a
// hash. The time of the response therefore does not show which names exist.
func TestEachFailedLoginCostsAHash(t *testing.T) {
	users := NewUsers([]User{
		{Name: "ann", Password: bcryptOf(t, "open sesame")}, {Name: "bob", Password: "plain"}, {Name: "cert"},
	}, nil)
	hashed := 0
	users.hashes[0] = countingHash{&hashed}
	users.all[0].password.hash = users.hashes[0]
	for _, name := range []string{"ann", "bob", "cert", "eve", "", "ann"} {
		hashed = 0
		_, result, _ := users.Login(t.Context(), newGuard(), Login{From: at("192.0.2.1"), User: name}, "wrong")
		require.Equal(t, Refused, result)
		require.Equal(t, 1, hashed, name)
	}
	hashed = 0
	_, result, _ := users.Login(t.Context(), newGuard(), Login{From: at("192.0.2.1"), User: "bob"}, "plain")
	require.Equal(t, Accepted, result)
	require.Zero(t, hashed)
}

// The password of an unknown name is compared with the hash of a user. The unknown name determines this user, so the
// costs of different hashes do not show which names exist. A second login with a user's password is not faster than the
// first.
func TestHashesOfUnknownNames(t *testing.T) {
	users := NewUsers([]User{{Name: "ann", Password: bcryptOf(t, "x")}, {Name: "eve", Password: bcryptOf(t, "x")}}, nil)
	numbers := make([]int, 2)
	for i := range users.hashes {
		users.hashes[i] = countingHash{&numbers[i]}
	}
	login := func(name string) {
		users.Login(t.Context(), newGuard(), Login{From: at("192.0.2.1"), User: name}, "x")
	}
	for i := range 40 {
		login(fmt.Sprint(i))
	}
	require.Equal(t, 40, numbers[0]+numbers[1])
	require.Positive(t, numbers[0])
	require.Positive(t, numbers[1])
	clear(numbers)
	login("0")
	login("0")
	require.ElementsMatch(t, []int{0, 2}, numbers)
}

// Only a few hashes are computed at the same time.
func TestHashesAreComputedOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard()
		places := cap(g.hashing)
		release := make(chan struct{})
		var running, most atomic.Int64
		results := make(chan bool, 100)
		for i := range 100 {
			from := originOf(ipv4(i), false)
			go func() {
				result, _, _ := g.checkWithHash(t.Context(), from, func() bool {
					most.Store(max(most.Load(), running.Add(1)))
					<-release
					running.Add(-1)
					return true
				})
				results <- result == Accepted
			}()
		}
		synctest.Wait()
		require.EqualValues(t, places, most.Load())
		time.Sleep(maxHashWait)
		synctest.Wait()
		require.Len(t, results, 100-places, "nobody waits longer")
		close(release)
		synctest.Wait()
		require.Len(t, results, 100)
	})
}

// Failed logins at the gateway do not block logins at the API's port.
func TestTheAPIHasItsOwnFailedLogins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard()
		for range maxDelayed {
			go g.CheckLogin(t.Context(), Login{From: at("192.0.2.1"), Listener: SOCKS5}, wrong)
		}
		synctest.Wait()
		right := Check{WithoutHash: func() (ok, decided bool) { return true, true }}
		result, _ := g.CheckLogin(t.Context(), Login{From: at("192.0.2.1"), Listener: Gateway}, right)
		require.Equal(t, Blocked, result)
		result, _ = g.CheckLogin(t.Context(), Login{From: at("192.0.2.1"), Listener: API}, right)
		require.Equal(t, Accepted, result)
	})
}
