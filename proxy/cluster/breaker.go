// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"sync/atomic"

	"pillion/proxy/pool"
)

// breaker counts what one of the limits is about. The limit holds on all
// cores together and is never passed, not even for a moment.
type breaker struct{ active atomic.Int64 }

func (b *breaker) admit(limit int64) bool {
	for {
		n := b.active.Load()
		if n >= limit {
			return false
		}
		if b.active.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// AdmitRequest takes one of max_requests; false when all are taken. What was
// taken must be given back by ReleaseRequest.
func (c *Cluster) AdmitRequest() bool {
	limit := c.config.Load().Breakers.MaxRequests
	if limit == pool.NoLimit {
		c.requests.active.Add(1)
		return true
	}
	if c.requests.admit(int64(limit)) {
		return true
	}
	c.Stats.RqActiveOverflow.Inc()
	return false
}

// ReleaseRequest gives back what AdmitRequest took.
func (c *Cluster) ReleaseRequest() { c.requests.active.Add(-1) }

// AdmitRetry takes one of max_retries or, where there is one, of the retry
// budget; false when all are taken. What was taken must be given back by
// ReleaseRetry.
func (c *Cluster) AdmitRetry() bool {
	if c.retries.admit(c.maxRetries()) {
		return true
	}
	c.Stats.RqRetryOverflow.Inc()
	return false
}

// ReleaseRetry gives back what AdmitRetry took.
func (c *Cluster) ReleaseRetry() { c.retries.active.Add(-1) }

// maxRetries returns how many retries may be in progress now (Envoy:
// ResourceManagerImpl::RetryBudgetImpl).
func (c *Cluster) maxRetries() int64 {
	b := &c.config.Load().Breakers
	if b.RetryBudget == nil {
		return int64(b.MaxRetries)
	}
	current := c.requests.active.Load() + c.group.Pending()
	return max(int64(b.RetryBudget.Percent*float64(current)/100), int64(b.RetryBudget.MinConcurrency))
}
