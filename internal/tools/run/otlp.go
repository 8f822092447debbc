// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"strconv"
	"time"
)

// request is what this command reads of an ExportMetricsServiceRequest or ExportLogsServiceRequest in OTLP's JSON.
type request struct {
	ResourceLogs []struct {
		ScopeLogs []struct {
			LogRecords []logRecord
		}
	}
	ResourceMetrics []struct {
		ScopeMetrics []struct {
			Metrics []metric
		}
	}
}

type logRecord struct {
	TimeUnixNano nano
	EventName    string
	Body         value
}

type metric struct {
	Name string
	Sum  struct{ DataPoints []point }
}

type point struct {
	TimeUnixNano nano
	AsInt        integer
	Attributes   []struct {
		Key   string
		Value value
	}
}

func (p *point) attribute(key string) string {
	for _, a := range p.Attributes {
		if a.Key == key {
			return a.Value.StringValue
		}
	}
	return ""
}

type value struct{ StringValue string }

// integer is a 64-bit number, which OTLP's JSON writes as a string.
type integer int64

func (i *integer) UnmarshalJSON(b []byte) error {
	n, err := strconv.ParseInt(unquoted(b), 10, 64)
	*i = integer(n)
	return err
}

// nano is a time in nanoseconds since 1970.
type nano struct{ time.Time }

func (t *nano) UnmarshalJSON(b []byte) error {
	n, err := strconv.ParseInt(unquoted(b), 10, 64)
	t.Time = time.Unix(0, n)
	return err
}

func unquoted(b []byte) string {
	var s string
	if json.Unmarshal(b, &s) == nil {
		return s
	}
	return string(b)
}
