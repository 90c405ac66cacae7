// SPDX-License-Identifier: Apache-2.0

package renew_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"pillion/proxy/tls"
	"pillion/proxy/tls/renew"
	"pillion/proxy/tls/renew/renewtest"
)

func TestReasons(t *testing.T) {
	for want, errs := range map[renew.Reason][]error{
		renew.Unavailable: {status.Error(codes.Unavailable, "x"), status.Error(codes.Internal, "x"), status.Error(codes.Canceled, "x")},
		renew.Slow:        {status.Error(codes.DeadlineExceeded, "x")},
		renew.Denied:      {status.Error(codes.PermissionDenied, "x"), fmt.Errorf("secret: %w", status.Error(codes.Unauthenticated, "x"))},
		renew.Invalid:     {errors.New("x"), status.Error(codes.InvalidArgument, "x")},
		renew.Identity:    {fmt.Errorf("secret: %w", &tls.IdentityError{Got: "a", Want: "b"})},
		renew.Local:       {renew.Because(renew.Local, status.Error(codes.Unavailable, "x"))},
	} {
		for _, err := range errs {
			if got := renew.ReasonOf(err); got != want {
				t.Errorf("%v: %s, not %s", err, got, want)
			}
		}
	}
	if renew.Because(renew.Local, nil) != nil {
		t.Error("a reason made an error of nothing")
	}
}

// TestOneLine: each reason is said once, until a renewal has succeeded.
func TestOneLine(t *testing.T) {
	var log renewtest.Log
	s := renew.NewStatus("x", log.Logger())
	down, slow := status.Error(codes.Unavailable, "down"), status.Error(codes.DeadlineExceeded, "slow")
	for range 100 {
		s.Failed("", down)
		s.Failed("", slow)
	}
	if log.Count("ERROR") != 2 || log.Count("reason=unavailable") != 1 || log.Count("reason=slow") != 1 {
		t.Errorf("the log:\n%s", log.String())
	}
	s.Succeeded("")
	s.Succeeded("")
	s.Failed("", down)
	if log.Count("ERROR") != 3 || log.Count("INFO") != 1 {
		t.Errorf("the log:\n%s", log.String())
	}
	if now := s.Snapshot(); now.Updates != 2 || now.Failures[renew.Unavailable] != 101 || now.Failures[renew.Slow] != 100 || now.LastSuccess.IsZero() || now.LastError != down {
		t.Errorf("%+v", now)
	}
}

// TestTroublesOfSecrets: one secret that is well says nothing about another,
// but that the source is.
func TestTroublesOfSecrets(t *testing.T) {
	var log renewtest.Log
	s := renew.NewStatus("x", log.Logger())
	bad := errors.New("bad")
	for range 10 {
		s.Failed("", status.Error(codes.Unavailable, "down"))
		s.Failed("default", bad)
	}
	for range 10 {
		s.Succeeded("ROOTCA")
		s.Failed("default", bad)
	}
	if now := s.Snapshot(); now.LastError != bad || log.Count("ERROR") != 2 || log.Count("INFO") != 0 {
		t.Errorf("%+v\n%s", now, log.String())
	}
	s.Succeeded("default")
	if now := s.Snapshot(); now.LastError != nil || log.Count("INFO") != 1 {
		t.Errorf("%+v\n%s", now, log.String())
	}
}

func TestBackoff(t *testing.T) {
	b := renew.Backoff{Base: time.Second, Max: 10 * time.Second}
	for round := range 2 {
		for i, most := range []time.Duration{1, 2, 4, 8, 10, 10} {
			most *= time.Second
			if got := b.Next(); got < most/2 || got > most {
				t.Errorf("round %d, wait %d: %s, not %s to %s", round, i, got, most/2, most)
			}
		}
		b.Reset()
	}
}

func TestWaitUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		if !renew.WaitUntil(t.Context(), start.Add(3*time.Hour+time.Second)) || time.Since(start) != 3*time.Hour+time.Second {
			t.Errorf("waited %s", time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if renew.WaitUntil(ctx, time.Now().Add(time.Hour)) || renew.Wait(ctx, 0) {
			t.Error("the end of the context wasn't seen")
		}
	})
}
