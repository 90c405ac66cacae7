// SPDX-License-Identifier: Apache-2.0

package proxy

import "testing"

func TestParseMapping(t *testing.T) {
	for _, c := range []struct {
		line string
		want mapping
		ok   bool
	}{
		{"00400000-009d6000 r-xp 00000000 fe:00 1234                     /usr/local/bin/proxy",
			mapping{from: 0x400000, to: 0x9d6000, perms: "r-xp", path: "/usr/local/bin/proxy"}, true},
		{"7ffd5a3c0000-7ffd5a3e1000 rw-p 00000000 00:00 0                          [stack]",
			mapping{from: 0x7ffd5a3c0000, to: 0x7ffd5a3e1000, perms: "rw-p", path: "[stack]"}, true},
		{"7f2c40000000-7f2c40021000 rw-p 00000000 00:00 0 ", mapping{}, false},
		{"Anonymous:             0 kB", mapping{}, false},
		{"VmFlags: rd ex mr mw me sd", mapping{}, false},
		{"", mapping{}, false},
	} {
		got, ok := parseMapping(c.line)
		if ok != c.ok || ok && got != c.want {
			t.Errorf("%q: %+v %v", c.line, got, ok)
		}
	}
}

// TestGiveBack holds that the program goes on with its pages dropped.
func TestGiveBack(t *testing.T) {
	if err := dropProgramPages(); err != nil {
		t.Fatal(err)
	}
	giveBack()
	if got, _ := parseMapping("1000-2000 r--p 0 0:0 1 /x"); got.to != 0x2000 {
		t.Errorf("after dropping: %+v", got)
	}
}
