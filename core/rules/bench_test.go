package rules

import (
	"fmt"
	"testing"
)

// The benchmark measures the time to find the routing rules of a request. Only the last of the rules
// holds.
func BenchmarkRoute(b *testing.B) {
	q := &Request{Host: "www.shop.test", Port: 443, Method: "GET", Path: []byte("/api/v1"), User: "crawler-1"}
	for _, n := range []int{0, 3, 100, 1000} {
		b.Run(fmt.Sprint(n, " rules"), func(b *testing.B) {
			var list []Rule
			for i := range n {
				r := Rule{When: Conditions{Hosts: []string{fmt.Sprintf("*.site-%d.test", i)}},
					Then: way(Routing{Deny: true})}
				if i == n-1 {
					r = Rule{When: Conditions{Hosts: []string{"*.shop.test"}, Paths: []string{"/api/*"},
						Users: []string{"crawler*"}},
						Then: way(Routing{Tag: "dc"})}
				}
				list = append(list, r)
			}
			s := compile(b, list...)
			for b.Loop() {
				if route := s.Route(q); route.IsEmpty() != (n == 0) {
					b.Fatal("wrong rule")
				}
			}
		})
	}
}
