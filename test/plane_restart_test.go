// SPDX-License-Identifier: Apache-2.0

package test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pillion/test/rig"
)

// kill ends the proxy as the kernel does when memory is short, and waits for its end.
func (p *plane) kill() {
	p.t.Helper()
	p.proc.Signal(p.t, os.Kill)
	p.proc.WaitExit(p.t)
}

// cachePath is the file of the last good configuration.
func (p *plane) cachePath() string {
	return filepath.Join(p.pod.root, "etc/istio/proxy/pillion/last-good-configuration")
}

// TestPlaneRestartedAlone: a container is started again while istiod, which is its CA too,
// is away. It serves the last good configuration, with the certificate that was kept
// (OUTPUT_CERTS), and is ready when istiod was given its time to answer. What istiod says when it is
// back is served.
func TestPlaneRestartedAlone(t *testing.T) {
	t.Parallel()
	p := preparePlane(t)
	p.pod.env = append(p.pod.env, "OUTPUT_CERTS="+filepath.Join(p.pod.root, "etc/istio/proxy"))
	p.start()
	p.waitReady()
	p.waitGeneration(0)
	p.waitMetric(rig.Patience, atLeast(1), "pillion_config_cache_written_total")

	p.kill()
	p.istiod.Kill()
	p.start()
	p.waitLog(rig.Patience, "level=WARN", "the last good configuration on disk is served until the control plane answers")
	p.waitLog(rig.Patience, "level=INFO", "the certificate that was written before is served until the CA answers")
	p.waitGeneration(0)
	if err := p.ready(); err == nil || !strings.Contains(err.Error(), "is served from disk") {
		t.Errorf("readiness at first: %v", err)
	}
	l := p.startLoad(20, 100*time.Millisecond, "stable.example", "stable")
	p.waitReady()
	p.waitLog(rig.Patience, "level=WARN", "ready with the last good configuration on disk")
	p.waitMetric(rig.Patience, exactly(1), "pillion_config_cache_served")
	hold(l, churnTime(time.Second, 10*time.Minute))

	p.istiod.Apply(generation(1))
	p.istiod.Restart()
	rig.UntilWithin(t, time.Minute, "istiod is served again", func() error {
		_, _, h, err := p.get("edited.example")
		if err == nil && h.Get("X-Generation") != mark(1) {
			err = os.ErrDeadlineExceeded
		}
		return err
	})
	p.waitMetric(rig.Patience, exactly(0), "pillion_config_cache_served")
	l.goesOn(50)
	l.end()
}

// TestPlaneRestartedWithout: what is on the disk can't be used, or the certificate isn't
// there, while istiod is away. The container isn't ready, says why, and is so when istiod is back.
func TestPlaneRestartedWithout(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		before func(t *testing.T, p *plane)
		log    []string
		reason string // of not being ready
	}{
		{"the file is corrupt", func(t *testing.T, p *plane) {
			data, err := os.ReadFile(p.cachePath())
			if err != nil {
				t.Fatal(err)
			}
			data[len(data)/2] ^= 1
			write(t, p.cachePath(), string(data))
		}, []string{"level=WARN", "the last good configuration on disk is not used", "checksum"}, "waiting for clusters"},
		{"the file is of another pod", func(_ *testing.T, p *plane) {
			for i, e := range p.pod.env {
				if strings.HasPrefix(e, "POD_NAME=") {
					p.pod.env[i] = "POD_NAME=reviews-v1-y"
				}
			}
		}, []string{"level=WARN", "the last good configuration on disk is not used", "reviews-v1-x"}, "waiting for clusters"},
		{"there is no certificate", func(*testing.T, *plane) {},
			[]string{"level=ERROR", "certificates can't be renewed"}, "the workload has no certificate yet"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := startPlane(t)
			p.waitMetric(rig.Patience, atLeast(1), "pillion_config_cache_written_total")
			p.kill()
			p.gate.set(refusing)
			p.ca.set(refusing)
			tc.before(t, p)
			p.start()
			p.waitLog(rig.Patience, tc.log...)
			if tc.reason == "the workload has no certificate yet" {
				// What needs none is served all the same.
				p.waitGeneration(0)
				p.waitLog(rig.Patience, "ready with the last good configuration on disk")
				p.waitMetric(rig.Patience, atLeast(1), "pillion_certificate_source_failures_total")
			}
			if err := p.ready(); err == nil || !strings.Contains(err.Error(), tc.reason) {
				t.Errorf("readiness: %v", err)
			}
			p.gate.set(passing)
			p.ca.set(passing)
			p.waitReady()
			p.waitGeneration(0)
		})
	}
}
