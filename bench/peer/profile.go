// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	nethttp "net/http"
	"os"
	"path/filepath"
	"time"
)

// Profile has the peer's programs profile their CPU for d, whole seconds, and writes a
// file for each into dir: name.pprof, and name-behind.pprof for the second of a pair. It
// does nothing for a peer that makes no profiles.
func (r *Running) Profile(ctx context.Context, d time.Duration, dir, name string) error {
	if r.admin == "" {
		return nil
	}
	behind := make(chan error, 1)
	if r.Behind == nil {
		behind <- nil
	} else {
		go func() { behind <- r.Behind.Profile(ctx, d, dir, name+"-behind") }()
	}
	err := r.profile(ctx, d, filepath.Join(dir, name+".pprof"))
	return errors.Join(err, <-behind)
}

func (r *Running) profile(ctx context.Context, d time.Duration, path string) error {
	url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%.0f", r.admin, d.Seconds())
	req, err := nethttp.NewRequestWithContext(ctx, nethttp.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	resp, err := nethttp.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	if resp.StatusCode != nethttp.StatusOK {
		return fmt.Errorf("profile: %s: %s", resp.Status, oneLine(data))
	}
	return os.WriteFile(path, data, 0o644)
}
