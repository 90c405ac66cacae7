// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"encoding/json"
	"fmt"
	neturl "net/url"
	"strconv"
)

// Sample is one value of the answer to a query of Prometheus.
type Sample struct {
	Labels map[string]string
	Value  float64
}

// QueryURL is where the Prometheus at an address tells an expression's value
// of now.
func QueryURL(addr, expr string) string {
	return "http://" + addr + "/api/v1/query?query=" + neturl.QueryEscape(expr)
}

// ParseSamples reads the answer to a query.
func ParseSamples(body string) ([]Sample, error) {
	var answer struct {
		Status string
		Data   struct {
			Result []struct {
				Metric map[string]string
				Value  [2]any
			}
		}
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		return nil, fmt.Errorf("%w in %s", err, body)
	}
	if answer.Status != "success" {
		return nil, fmt.Errorf("prometheus answers %s", body)
	}
	var samples []Sample
	for _, r := range answer.Data.Result {
		text, _ := r.Value[1].(string)
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, err
		}
		samples = append(samples, Sample{r.Metric, value})
	}
	return samples, nil
}
