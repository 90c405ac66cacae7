// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// maxFile bounds the files that are read: all of them are small, or are not what
// they should be.
const maxFile = 4 << 20

// readFile reads a file of the pod. There is none: ok is false.
func readFile(path string) (text string, ok bool, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return "", false, err
	}
	if len(data) > maxFile {
		return "", false, fmt.Errorf("it has more than %d bytes", maxFile)
	}
	return string(data), true, nil
}

// isFile tells whether a regular file, maybe behind a link, stands there.
func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// parseInfo reads labels or annotations as the kubelet writes them into a
// volume of the downward API: lines key="value", the value quoted as Go does
// (k8s.io/kubernetes/pkg/fieldpath).
func parseInfo(text string) (map[string]string, error) {
	out := map[string]string{}
	n := 0
	for line := range strings.SplitSeq(text, "\n") {
		n++
		if line == "" {
			continue
		}
		key, quoted, ok := strings.Cut(line, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("line %d is not key=\"value\"", n)
		}
		value, err := strconv.Unquote(quoted)
		if err != nil {
			return nil, fmt.Errorf("line %d: the value of %s is not a quoted text", n, key)
		}
		out[key] = value
	}
	return out, nil
}

// info reads one file of the podinfo volume; nil where there is none.
func (v *values) info(path string) map[string]string {
	text, ok, err := readFile(path)
	if ok {
		var out map[string]string
		if out, err = parseInfo(text); err == nil {
			return out
		}
	}
	if err != nil {
		v.refuse(path, "", err.Error(), "the kubelet writes it from the pod's metadata: check the volume istio-podinfo")
	}
	return nil
}
