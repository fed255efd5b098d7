// Package pool tells a plugin what proxies there are, by name, region and
// metadata. Import it for that only.
package pool

// Proxy is one proxy of the pool. It is the plugin's own and may be kept.
type Proxy struct {
	ID         string
	IDHash     float64 // as abi.Candidate.IDHash
	Region     string  // "" without one
	RegionHash float64 // as abi.RankRequest.RegionHash; 0 without one
	Weight     float64
	Cost       float64
	Metadata   Metadata
}

// Metadata is what the configuration says of a proxy in addition to what the
// gateway itself uses; keys in order.
type Metadata []Entry

// Entry is one key and its value.
type Entry struct{ Key, Value string }

// Get is the value of a key, "" without one.
func (m Metadata) Get(key string) string {
	for i := range m {
		if m[i].Key == key {
			return m[i].Value
		}
	}
	return ""
}

// Listener hears what proxies there are.
type Listener interface {
	// PoolChanged is called before an instance's first call and before the next
	// one after the pool has changed, each time with all proxies of the pool.
	PoolChanged(proxies []Proxy)
}

//lint:ignore U1000 the export reads it
var plugin Listener

// Register names who hears. Call it from an init function: the host does not
// run main.
func Register(l Listener) { plugin = l }
