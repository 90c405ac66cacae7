// SPDX-License-Identifier: Apache-2.0

package http

// Rest goes on with serving a connection where somebody who served it has returned, and
// returns what is left after that; nil says that the connection is over. So what was
// needed to begin with takes no stack any more, and a connection that waits can get a
// goroutine with a stack as small as that of a new one: the runtime halves a stack only
// if hardly any of it is in use.
type Rest func() Rest

// Run goes on to the end, on the goroutine that calls it.
func (r Rest) Run() {
	for r != nil {
		r = r()
	}
}

// Then has f follow the end of the connection.
func (r Rest) Then(f func()) Rest {
	if r == nil {
		f()
		return nil
	}
	return func() Rest {
		over := true
		defer func() {
			if over { // by a panic
				f()
			}
		}()
		next := r()
		over = false
		return next.Then(f)
	}
}
