package eventstream

import (
	"context"
	"sync"
	"testing"
)

// BenchmarkPublish publishes events while readers read all of them.
func BenchmarkPublish(b *testing.B) {
	for name, readers := range map[string]int{"alone": 0, "64 readers": MaxReaders} {
		b.Run(name, func(b *testing.B) {
			var s Stream
			var wg sync.WaitGroup
			for range readers {
				r, _, err := s.Subscribe(0, nil)
				if err != nil {
					b.Fatal(err)
				}
				wg.Go(func() {
					for {
						if _, _, err := r.Next(context.Background()); err != nil {
							return
						}
					}
				})
			}
			data := make([]byte, 200)
			b.ReportAllocs()
			for b.Loop() {
				s.Publish("x", data)
			}
			s.Close()
			wg.Wait()
		})
	}
}
