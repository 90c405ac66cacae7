// SPDX-License-Identifier: Apache-2.0

package http

// exchangeState is what one filter remembers of an exchange.
type exchangeState struct{ owner, value any }

// SetState keeps a filter's own value until the exchange is over, for a later
// phase. owner is compared by identity, so use a pointer.
func (x *Exchange) SetState(owner, value any) {
	for i := range x.states {
		if x.states[i].owner == owner {
			x.states[i].value = value
			return
		}
	}
	x.states = append(x.states, exchangeState{owner, value})
}

// State returns what owner has kept, nil if it has kept nothing.
func (x *Exchange) State(owner any) any {
	for i := range x.states {
		if x.states[i].owner == owner {
			return x.states[i].value
		}
	}
	return nil
}

// EarlyBody is the beginning of a request's body, as far as a filter had it
// read before it decided. It is sent to the host as if it came later.
type EarlyBody struct {
	Data []byte
	// Whole says that it is all of the body.
	Whole bool
}
