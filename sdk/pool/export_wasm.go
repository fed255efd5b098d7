package pool

import (
	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
	"github.com/whirlpool-proxy/whirlpool/sdk/internal/guest"
)

//go:wasmexport pool_changed
func poolChanged(address, count uint32) {
	if plugin == nil {
		panic("no pool listener: call pool.Register from an init function")
	}
	records := guest.Records[abi.Proxy](address, count)
	pairs := 0
	for i := range records {
		pairs += int(records[i].MetadataCount)
	}
	proxies, entries, text := make([]Proxy, count), make([]Entry, 0, pairs), guest.Copy()
	for i := range records {
		p, first := &records[i], len(entries)
		for _, m := range guest.Records[abi.Pair](p.Metadata, p.MetadataCount) {
			entries = append(entries, Entry{text.At(m.Key, m.KeyLength), text.At(m.Value, m.ValueLength)})
		}
		proxies[i] = Proxy{
			ID: text.At(p.ID, p.IDLength), IDHash: p.IDHash,
			Region: text.At(p.Region, p.RegionLength), RegionHash: p.RegionHash,
			Weight: p.Weight, Cost: p.Cost, Metadata: entries[first:len(entries):len(entries)],
		}
	}
	plugin.PoolChanged(proxies)
}
