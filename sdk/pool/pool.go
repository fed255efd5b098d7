// Package pool passes the proxies of the pool to a plugin, each with its name, region and metadata. Import the
// package only in a plugin that needs the proxies.
package pool

// Proxy is one proxy of the pool. The plugin owns it and may keep it.
type Proxy struct {
	ID         string
	IDHash     float64 // see abi.Candidate.IDHash
	Region     string  // "" without a region
	RegionHash float64 // see abi.RankRequest.RegionHash; 0 without a region
	Weight     float64
	Cost       float64
	Metadata   Metadata
}

// Metadata holds the metadata of a proxy in the configuration, sorted by key.
type Metadata []Entry

// Entry is one key and its value.
type Entry struct{ Key, Value string }

// Get returns the value of a key, or "" if there is none.
func (m Metadata) Get(key string) string {
	for i := range m {
		if m[i].Key == key {
			return m[i].Value
		}
	}
	return ""
}

// Listener receives the proxies of the pool.
type Listener interface {
	// PoolChanged receives all proxies of the pool. In each instance of the plugin, the host calls PoolChanged before
	// it passes the first request or observation to the instance. After a change of the pool, the host calls
	// PoolChanged again before it passes the next request or observation.
	PoolChanged(proxies []Proxy)
}

//lint:ignore U1000 the export reads it
var plugin Listener

// Register sets the plugin's Listener. Call it from an init function: the host does not run main.
func Register(l Listener) { plugin = l }
