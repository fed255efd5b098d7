// A module of its own, so that the libraries compared with stay out of the
// gateway's go.mod: `make bench-rivals`.
module github.com/whirlpool-proxy/whirlpool/core/breaker/rivals

go 1.26.0

replace github.com/whirlpool-proxy/whirlpool => ../../..

require (
	github.com/failsafe-go/failsafe-go v0.9.8
	github.com/sony/gobreaker/v2 v2.4.0
	github.com/whirlpool-proxy/whirlpool v0.0.0-00010101000000-000000000000
)

require (
	github.com/aclements/go-moremath v0.0.0-20210112150236-f10218a38794 // indirect
	github.com/bits-and-blooms/bitset v1.24.4 // indirect
	golang.org/x/perf v0.0.0-20260908200009-22c9c6c9d4da // indirect
)

tool golang.org/x/perf/cmd/benchstat
