// SPDX-License-Identifier: Apache-2.0

package istiostats

import (
	"maps"
	"slices"
	"sync/atomic"

	"pillion/proxy/http"
	"pillion/proxy/stats"
)

// key is what the labels of a request depend on beside its host, or its
// cluster when it got no host.
type key struct {
	// bits packs status, flags, protocol, gRPC status and special route.
	bits uint64
	// peer is the other end as it says of itself, one for all pods of a workload:
	// the client for a server, the host for a client. nil when it says nothing.
	peer *http.Peer
	// principal is that of the other end's certificate, the client's or the host's,
	// and own that of ours on the connection.
	principal, own string
	// varied stands for what labels are made of beside that (plan.vary).
	varied uint64
}

// Places in key.bits.
const (
	statusShift  = 0  // 10 bits
	grpcShift    = 10 // 6 bits: 0 for no gRPC, else the code + grpcBias
	specialShift = 16 // 2 bits
	flagsShift   = 32 // 32 bits
)

const (
	maxStatus = 1<<10 - 1
	grpcBias  = 1 - int(grpcNone) // makes the smallest result 1
)

func (r *reporter) key(ex *http.Exchange) key {
	status := ex.Resp.Status
	if status < 0 || status > maxStatus {
		status = maxStatus // no codec lets such a status through
	}
	k := key{bits: uint64(status)<<statusShift | uint64(ex.Flags)<<flagsShift | uint64(specialRoute(ex.RouteName))<<specialShift}
	if ex.GRPC {
		k.bits |= uint64(int(grpcStatus(ex))+grpcBias) << grpcShift
	}
	r.setPeer(&k, ex)
	return k
}

// setPeer makes a key that of the exchange's other end.
func (r *reporter) setPeer(k *key, ex *http.Exchange) {
	r.setPeerOf(k, ex.Conn, ex.DownstreamPeer, ex.UpstreamPeer, ex.UpstreamTLS)
}

func (k *key) status() int       { return int(k.bits>>statusShift) & maxStatus }
func (k *key) flags() http.Flags { return http.Flags(k.bits >> flagsShift) }
func (k *key) special() special  { return special(k.bits >> specialShift & 3) }

// grpc returns the gRPC status and whether the request is one of gRPC.
func (k *key) grpc() (http.GRPCCode, bool) {
	g := int(k.bits>>grpcShift) & 63
	return http.GRPCCode(g - grpcBias), g != 0
}

// series is what a handle leads to: a label set that is forgotten when it is
// not used.
type series interface {
	comparable
	// Touch marks a use; false says that the series was forgotten.
	Touch() bool
	Alive() bool
}

// handles caches the series of one host, or of one cluster. The zero value is
// ready; all methods are safe for concurrent use.
type handles[S series] struct {
	list atomic.Pointer[[]handle[S]] // each list is immutable
}

type handle[S series] struct {
	key    key
	series S
}

// maxHandles bounds a list that is searched from its beginning. A host has
// one or two dozen results at most unless somebody plays with it; what finds
// no place is looked up by its labels each time, which is slower, not wrong.
const maxHandles = 32

// find returns the series for k, nil when there is none or it was forgotten.
func (h *handles[S]) find(k *key) (none S) {
	list := h.list.Load()
	if list == nil {
		return none
	}
	for i := range *list {
		e := &(*list)[i]
		if e.key == *k {
			if e.series.Touch() {
				return e.series
			}
			return none
		}
	}
	return none
}

// put adds a handle, in the place of those that are no longer alive. When
// others add at the same time one of them wins, and the rest is added when it
// is next looked for.
func (h *handles[S]) put(k key, s S) {
	old := h.list.Load()
	var list []handle[S]
	if old != nil {
		stale := func(e handle[S]) bool { return e.key == k || !e.series.Alive() }
		if len(*old) >= maxHandles && !slices.ContainsFunc(*old, stale) {
			return
		}
		list = slices.DeleteFunc(slices.Clone(*old), stale)
	}
	list = append(list, handle[S]{k, s})
	h.list.CompareAndSwap(old, &list)
}

// maxClusters bounds the caches for requests that got no host. Clusters come
// and go; when there are this many the map starts anew.
const maxClusters = 256

// clusters caches the handles of requests that got no host, by the name of
// the cluster, which is empty when no route was found. The zero value is
// ready; all methods are safe for concurrent use.
type clusters[C any] struct {
	byName atomic.Pointer[map[string]*handles[*stats.Series[C]]] // each map is immutable
}

func (c *clusters[C]) get(name string) *handles[*stats.Series[C]] {
	for {
		old := c.byName.Load()
		if old != nil {
			if h := (*old)[name]; h != nil {
				return h
			}
		}
		next := map[string]*handles[*stats.Series[C]]{}
		if old != nil && len(*old) < maxClusters {
			maps.Copy(next, *old)
		}
		h := &handles[*stats.Series[C]]{}
		next[name] = h
		if c.byName.CompareAndSwap(old, &next) {
			return h
		}
	}
}
