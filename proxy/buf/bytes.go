// SPDX-License-Identifier: Apache-2.0

package buf

import "sync"

// maxKept bounds the append buffers that go back to the pool, in bytes.
const maxKept = Large

var bytesPool = sync.Pool{New: func() any { b := make([]byte, 0, Small); return &b }}

// GetBytes returns an empty append buffer from the pool. Append through the
// pointer and give it back with PutBytes.
func GetBytes() *[]byte { return bytesPool.Get().(*[]byte) }

// PutBytes gives an append buffer back; nil is allowed.
func PutBytes(b *[]byte) {
	if b == nil || cap(*b) > maxKept {
		return
	}
	*b = (*b)[:0]
	bytesPool.Put(b)
}
