package session

import (
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// begin begins a use of the session id with a ttl of one minute.
func begin(t *Table, id string, strict bool, now time.Time) Handle {
	return t.Begin(KeyOf("", id, ""), Request{ID: id, TTL: time.Minute, Strict: strict}, now)
}

func TestASessionKeepsItsProxyForItsTTL(t *testing.T) {
	table, now := NewTable(10), time.Unix(0, 0)
	u := begin(table, "a", false, now)
	require.Empty(t, u.StartProxy())
	u.RecordAttempt(0, "p1", false)
	require.Empty(t, u.BindServed(now))

	now = now.Add(59 * time.Second)
	u = begin(table, "a", false, now)
	require.Equal(t, "p1", u.StartProxy())
	u.RecordAttempt(0, "p1", false)
	require.Empty(t, u.BindServed(now), "the ttl begins again")

	now = now.Add(time.Minute - 1)
	u = begin(table, "a", false, now)
	require.Equal(t, "p1", u.StartProxy())
	u = begin(table, "a", false, now.Add(1))
	require.Empty(t, u.StartProxy(), "only served requests let the session last")
	require.Zero(t, table.Len())
}

func TestAFailedRequestBindsNoSession(t *testing.T) {
	table, now := NewTable(10), time.Unix(0, 0)
	u := begin(table, "a", true, now)
	u.RecordAttempt(0, "p1", false)
	require.False(t, u.IsStrict(), "a new session may try several proxies")
	u.RecordAttempt(1, "p2", false)
	require.Empty(t, u.BindServed(now), "it has not moved: it had no proxy")
	u = begin(table, "a", true, now)
	require.Equal(t, "p2", u.StartProxy())
	require.True(t, u.IsStrict())
}

func TestASessionThatMovesIsReported(t *testing.T) {
	table, now := NewTable(10), time.Unix(0, 0)
	first := begin(table, "a", false, now)
	first.RecordAttempt(0, "p1", false)
	first.BindServed(now)

	late := begin(table, "a", false, now)
	late.RecordAttempt(0, "p1", false)
	moves := begin(table, "a", false, now)
	moves.RecordAttempt(0, "p1", false)
	moves.RecordAttempt(1, "p2", false)
	require.Equal(t, "p1", moves.BindServed(now))
	require.Empty(t, late.BindServed(now), "its request was served by the proxy that it began with")
	again := begin(table, "a", false, now)
	require.Equal(t, "p2", again.StartProxy(), "a late response does not move the session back")
}

func TestTheRequestsOfAStrictSessionAgree(t *testing.T) {
	table, now := NewTable(10), time.Unix(0, 0)
	a, b := begin(table, "a", true, now), begin(table, "a", true, now)
	a.RecordAttempt(0, "p1", false)
	b.RecordAttempt(1, "p2", false)
	a.BindServed(now)
	b.BindServed(now)
	u := begin(table, "a", true, now)
	require.Equal(t, "p1", u.StartProxy(), "the first proxy that serves a strict session stays")
}

func TestTokens(t *testing.T) {
	table, now := NewTable(10), time.Unix(0, 0)
	u := begin(table, "a", false, now)
	u.RecordAttempt(0, "p1", false)
	first := u.Token()
	require.Regexp(t, `^[a-z2-7]{13}$`, first)
	u.RecordAttempt(1, "p1", false)
	second := u.Token()
	require.NotEqual(t, first, second, "a retry is another session of the vendor")
	u.BindServed(now)

	next := begin(table, "a", false, now)
	next.RecordAttempt(0, "p1", false)
	require.Equal(t, second, next.Token())
	next.RecordAttempt(0, "p2", false)
	require.NotEqual(t, second, next.Token(), "the session moves")

	strict := begin(table, "a", true, now)
	strict.RecordAttempt(0, "p1", false)
	strict.RecordAttempt(3, "p1", false)
	require.Equal(t, second, strict.Token(), "a strict session keeps its exit")

	other := begin(table, "b", false, now)
	other.RecordAttempt(0, "p1", false)
	require.NotEqual(t, first, other.Token())
}

// TestTheTableAgainstAMap compares the table with a map without a limit of its size, and checks the limit.
func TestTheTableAgainstAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const most = 4
		table, now := NewTable(most), time.Unix(0, 0)
		type entry struct {
			proxy      string
			generation uint32
			until      time.Time
		}
		model, order := map[string]entry{}, []string{} // order: used longest ago first
		drop := func(id string) {
			delete(model, id)
			for i := range order {
				if order[i] == id {
					order = append(order[:i], order[i+1:]...)
					return
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"time passes": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 40).Draw(t, "s")) * time.Second)
			},
			"a request": func(t *rapid.T) {
				id, strict := rapid.StringMatching("[a-g]").Draw(t, "id"), rapid.Bool().Draw(t, "strict")
				u := begin(table, id, strict, now)
				have, alive := model[id]
				if alive && !now.Before(have.until) {
					drop(id)
					have, alive = entry{}, false
				}
				require.Equal(t, have.proxy, u.StartProxy())
				require.Equal(t, strict && alive, u.IsStrict())
				if !rapid.Bool().Draw(t, "served") {
					return
				}
				retries := rapid.IntRange(0, 2).Draw(t, "retries")
				proxy := rapid.StringMatching("p[1-3]").Draw(t, "proxy")
				if u.IsStrict() {
					proxy = u.StartProxy()
				}
				u.RecordAttempt(retries, proxy, false)
				moved := u.BindServed(now)
				if alive && have.proxy != proxy {
					require.Equal(t, have.proxy, moved)
				} else {
					require.Empty(t, moved)
				}
				if !alive {
					for len(order) > 0 && (!now.Before(model[order[0]].until) || len(order) >= most) {
						drop(order[0])
					}
				}
				drop(id)
				model[id] = entry{proxy, u.generation, now.Add(time.Minute)}
				order = append(order, id)
			},
			"": func(t *rapid.T) {
				require.LessOrEqual(t, table.Len(), most)
				require.Equal(t, len(model), table.Len())
			},
		})
	})
}

func TestConcurrentUses(t *testing.T) {
	table, now := NewTable(8), time.Unix(0, 0)
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for i := range 500 {
				u := begin(table, strconv.Itoa((g+i)%16), i%2 == 0, now.Add(time.Duration(i)*time.Second))
				u.RecordAttempt(i%3, "p"+strconv.Itoa(i%4), false)
				u.BindServed(now.Add(time.Duration(i) * time.Second))
			}
		})
	}
	all.Wait()
	require.LessOrEqual(t, table.Len(), 8)
}

// A proxy that has an exit for each generation serves a moved session through another exit.
func TestASessionMovesToAnotherExitOfItsProxy(t *testing.T) {
	table, now := NewTable(10), time.Unix(0, 0)
	u := begin(table, "a", false, now)
	u.RecordAttempt(0, "p1", true)
	require.Empty(t, u.BindServed(now))
	u = begin(table, "a", false, now)
	u.RecordAttempt(0, "p1", true)
	u.RecordAttempt(1, "p1", true)
	require.Equal(t, "p1", u.BindServed(now))
	u = begin(table, "a", false, now)
	u.RecordAttempt(1, "p1", false)
	require.Empty(t, u.BindServed(now), "a proxy with one exit")
}

// Moves are reported when they are made, and again when half of the TTL has passed. A table that receives the moves
// continues the session, with the same token.
func TestMovesAreReportedAndLearnt(t *testing.T) {
	var moves []Move
	here, there, now := NewTable(10), NewTable(10), time.Unix(0, 0)
	here.OnMove(func(m Move) { moves = append(moves, m) })
	request := func(table *Table, retries int, proxy string) (token string) {
		u := begin(table, "a", false, now)
		u.RecordAttempt(retries, proxy, true)
		u.BindServed(now)
		return u.Token()
	}
	request(here, 0, "p1")
	require.Empty(t, moves, "it has not moved")
	token := request(here, 1, "p2")
	key := KeyOf("", "a", "")
	require.Equal(t, []Move{{key, "p2", 1, time.Minute}}, moves)
	now = now.Add(29 * time.Second)
	request(here, 0, "p2")
	require.Len(t, moves, 1)
	now = now.Add(time.Second)
	request(here, 0, "p2")
	require.Equal(t, []Move{{key, "p2", 1, time.Minute}, {key, "p2", 1, time.Minute}}, moves)
	now = now.Add(29 * time.Second)
	request(here, 0, "p2")
	require.Len(t, moves, 2)

	request(there, 0, "p1")
	there.RecordMove(Move{key, "p2", 1, time.Second}, now)
	u := begin(there, "a", false, now)
	require.Equal(t, "p2", u.StartProxy())
	require.Equal(t, token, request(there, 0, "p2"))
	there.RecordMove(Move{key, "p2", 1, time.Second}, now)
	now = now.Add(59 * time.Second)
	u = begin(there, "a", false, now)
	require.Equal(t, "p2", u.StartProxy(), "the end does not become earlier")

	there.RecordMove(Move{KeyOf("", "b", ""), "p3", 4, time.Second}, now)
	u = begin(there, "b", false, now)
	require.Equal(t, "p3", u.StartProxy())
	u = begin(there, "b", false, now.Add(time.Second))
	require.Empty(t, u.StartProxy(), "it ends")
	for i := range 100 {
		there.RecordMove(Move{KeyOf("", strconv.Itoa(i), ""), "p", 1, time.Minute}, now)
	}
	require.Equal(t, 10, there.Len())
	u = begin(there, "a", false, now)
	require.Equal(t, "p2", u.StartProxy(), "sessions that are used here stay")
}
