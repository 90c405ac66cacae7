// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package pool

import "syscall"

func lateBind(_, _ string, _ syscall.RawConn) error { return nil }
