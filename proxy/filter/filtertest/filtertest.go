// SPDX-License-Identifier: Apache-2.0

// Package filtertest stands for what tests ask through a filter.Client.
package filtertest

import (
	"pillion/proxy/filter"
	"pillion/proxy/http"
)

// Client is a client of a server that answers every call in the same way. It isn't safe
// for concurrent use.
type Client struct {
	Answer  *filter.ClientAnswer
	Failure *http.Error

	Cluster string             // whose client it was last made
	Call    *filter.ClientCall // the last one
}

// Of makes it the client of a cluster.
func (c *Client) Of(cluster string) filter.Client {
	c.Cluster = cluster
	return c
}

// Do implements filter.Client.
func (c *Client) Do(call *filter.ClientCall) (*filter.ClientAnswer, *http.Error) {
	c.Call = call
	if c.Failure != nil {
		return nil, c.Failure
	}
	return c.Answer, nil
}
