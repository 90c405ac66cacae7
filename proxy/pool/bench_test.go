// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"testing"
	"time"

	"pillion/proxy/http"
)

// warm is a pool with idle connections.
func warm(tb testing.TB, n int) *Pool {
	s := serve(tb, forever)
	r := newRig(tb, Defaults(), nil, time.Hour, s.addr())
	var conns []*Conn
	for range n {
		conns = append(conns, r.must(tb, 0))
	}
	for _, c := range conns {
		r.hosts[0].Put(c, true)
	}
	return r.hosts[0]
}

func TestReuseDoesNotAllocate(t *testing.T) {
	p := warm(t, 4)
	for _, m := range []http.Method{http.MethodGet, http.MethodPost} {
		if n := testing.AllocsPerRun(1000, func() {
			c, err := p.Acquire(0, nil, m)
			if err != nil {
				t.Fatal(err)
			}
			p.Put(c, true)
		}); n != 0 {
			t.Errorf("method %d: %v allocations", m, n)
		}
	}
}

func BenchmarkReuse(b *testing.B) {
	for name, m := range map[string]http.Method{"GET": http.MethodGet, "POST": http.MethodPost} {
		b.Run(name, func(b *testing.B) {
			p := warm(b, 4)
			b.ReportAllocs()
			for b.Loop() {
				c, err := p.Acquire(0, nil, m)
				if err != nil {
					b.Fatal(err)
				}
				p.Put(c, true)
			}
		})
	}
}

func BenchmarkReuseParallel(b *testing.B) {
	p := warm(b, 16)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			c, err := p.Acquire(0, nil, http.MethodGet)
			if err != nil {
				b.Error(err)
				return
			}
			p.Put(c, true)
		}
	})
}
