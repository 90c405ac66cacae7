// SPDX-License-Identifier: Apache-2.0

package match

// Share is a part of all requests (envoy.type.v3.FractionalPercent). The zero value
// is none of them. Immutable.
type Share struct{ hit uint64 } // of 1 << 32

// Per returns what a FractionalPercent's numerator counts in, by the number of its
// denominator: HUNDRED, TEN_THOUSAND, MILLION.
func Per(denominator int32) uint32 {
	switch denominator {
	case 1:
		return 10_000
	case 2:
		return 1_000_000
	}
	return 100
}

// NewShare returns the share numerator of Per(denominator), all if it is more.
func NewShare(numerator uint32, denominator int32) Share {
	per := uint64(Per(denominator))
	return Share{hit: min(uint64(numerator), per) << 32 / per}
}

// Empty reports whether it is no request at all.
func (s Share) Empty() bool { return s.hit == 0 }

// Takes reports whether a random number falls into the share. Decisions about one
// request that are not to depend on each other mix the number first, each with a
// salt of its own.
func (s Share) Takes(random uint64) bool { return random>>32 < s.hit }

// Mix is the finalizer of splitmix64: every bit of x and salt changes half of the
// result's.
func Mix(x, salt uint64) uint64 {
	x += salt
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Fraction is a share of requests. The zero value is all of them.
type Fraction struct{ Numerator, Denominator uint32 }

// Takes reports whether a random number falls into the share. Like Envoy it
// takes the remainder, so that routes that split one random number agree.
func (f Fraction) Takes(random uint64) bool {
	return f.Denominator == 0 || random%uint64(f.Denominator) < uint64(f.Numerator)
}
