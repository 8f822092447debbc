// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	perSecond = 10 // lines of one kind shown in a second; the rest is counted
	clock     = "15:04:05.000"
)

// view turns the collector's output into lines for a person.
type view struct {
	mu      sync.Mutex // the collector's log and its data come from two goroutines
	w       io.Writer
	shown   map[string]*budget // event name => lines
	last    map[string]totals  // interface => at the last collection
	ledger  string             // what the receiver says at its end
	records map[string]int     // event name => records seen
}

// budget keeps a busy host from scrolling everything away.
type budget struct {
	second         time.Time
	shown, skipped int
}

// totals are what the points of one interface add up to.
type totals struct {
	at             time.Time
	received, sent traffic
	series, flows  int64
}

type traffic struct{ bytes, packets int64 }

func newView(w io.Writer) *view {
	return &view{w: w, shown: map[string]*budget{}, last: map[string]totals{}, records: map[string]int{}}
}

func (v *view) line(b []byte) {
	if len(b) == 0 {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	var req request
	if err := json.Unmarshal(b, &req); err != nil {
		fmt.Fprintf(v.w, "run: not OTLP JSON: %v\n", err)
		return
	}
	for _, r := range req.ResourceLogs {
		for _, s := range r.ScopeLogs {
			for i := range s.LogRecords {
				v.record(&s.LogRecords[i])
			}
		}
	}
	for _, r := range req.ResourceMetrics {
		for _, s := range r.ScopeMetrics {
			v.metrics(s.Metrics)
		}
	}
}

func (v *view) record(r *logRecord) {
	v.records[r.EventName]++
	kind := strings.TrimPrefix(r.EventName, "network.")
	b := v.shown[r.EventName]
	if b == nil {
		b = &budget{}
		v.shown[r.EventName] = b
	}
	if now := time.Now().Truncate(time.Second); now.After(b.second) {
		if b.skipped > 0 {
			fmt.Fprintf(v.w, "%s %-7s %d more, in the file\n", b.second.Format(clock), kind, b.skipped)
		}
		*b = budget{second: now}
	}
	if b.shown == perSecond {
		b.skipped++
		return
	}
	b.shown++
	fmt.Fprintf(v.w, "%s %-7s %s\n", r.TimeUnixNano.Format(clock), kind, r.Body.StringValue)
}

// metrics shows a line for each interface that had traffic since the last collection.
func (v *view) metrics(ms []metric) {
	now := map[string]totals{}
	for _, m := range ms {
		for i := range m.Sum.DataPoints {
			p := &m.Sum.DataPoints[i]
			name := p.attribute("network.interface.name")
			if name == "" {
				name = "others" // more series than cardinality_limit
			}
			t := now[name]
			t.add(m.Name, p)
			now[name] = t
		}
	}
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if t, before := now[name], v.last[name]; t.received != before.received || t.sent != before.sent {
			fmt.Fprintf(v.w, "%s totals  %s: received %s, sent %s; %d flows active, %d series\n", t.at.Format(clock), name,
				t.received.since(before.received, t.at.Sub(before.at)), t.sent.since(before.sent, t.at.Sub(before.at)), t.flows, t.series)
		}
	}
	maps.Copy(v.last, now)
}

func (t *totals) add(metric string, p *point) {
	t.at = p.TimeUnixNano.Time
	direction := &t.received
	if p.attribute("network.io.direction") == "transmit" {
		direction = &t.sent
	}
	switch metric {
	case "network.flow.io":
		direction.bytes += int64(p.AsInt)
		t.series++
	case "network.flow.packets":
		direction.packets += int64(p.AsInt)
	case "network.flow.active":
		t.flows += int64(p.AsInt)
	}
}

func (t traffic) String() string {
	return fmt.Sprintf("%d packets %s", t.packets, amount(float64(t.bytes), "B"))
}

// since adds the rate of a time to the totals. There is none at the first collection, nor when series have timed out and
// taken their share of the totals with them.
func (t traffic) since(before traffic, d time.Duration) string {
	if before == (traffic{}) || t.bytes < before.bytes || t.packets < before.packets || d <= 0 {
		return t.String()
	}
	perSecond := func(n int64) float64 { return float64(n) / d.Seconds() }
	return fmt.Sprintf("%v (%s/s %s/s)", t,
		amount(perSecond(t.packets-before.packets), ""), amount(perSecond(t.bytes-before.bytes), "B"))
}

// logs shows what the collector says: warnings and errors of all parts, and what the receiver has to tell.
func (v *view) logs(r io.Reader) {
	lines := bufio.NewReader(r)
	for {
		b, err := lines.ReadBytes('\n')
		if len(b) > 0 {
			v.log(b)
		}
		if err != nil {
			return
		}
	}
}

func (v *view) log(b []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var entry map[string]any
	if json.Unmarshal(b, &entry) != nil {
		_, _ = v.w.Write(b) // a message from before the log is set up, or a panic: as it is
		return
	}
	level, _ := entry["level"].(string)
	component, _ := entry["otelcol.component.id"].(string)
	message, _ := entry["msg"].(string)
	switch {
	case level == "info" && !strings.HasPrefix(component, "ebpfpackets"), strings.HasPrefix(message, "Development component"):
		return
	case strings.HasPrefix(message, "Final ledger"):
		v.ledger = message
		return
	}
	var line bytes.Buffer
	fmt.Fprintf(&line, "%s %-7s %s", time.Now().Format(clock), level, message)
	for _, key := range slices.Sorted(maps.Keys(entry)) {
		switch {
		case key == "level", key == "ts", key == "msg", key == "caller", key == "stacktrace", key == "resource",
			strings.HasPrefix(key, "otelcol."):
		default:
			fmt.Fprintf(&line, " %s=%s", key, field(entry[key]))
		}
	}
	fmt.Fprintln(v.w, line.String())
}

func field(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}

func (v *view) summary(out string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	fmt.Fprintf(v.w, "\nrun: %d flow records, %d sampled packets, all in %s\n",
		v.records["network.flow"], v.records["network.packet"], out)
	for _, name := range slices.Sorted(maps.Keys(v.last)) {
		fmt.Fprintf(v.w, "run: %s: received %v, sent %v\n", name, v.last[name].received, v.last[name].sent)
	}
	if v.ledger != "" {
		fmt.Fprintf(v.w, "run: %s\n", v.ledger)
	}
}

// amount writes n with three digits and a decimal prefix.
func amount(n float64, unit string) string {
	for _, prefix := range []string{"", "k", "M", "G"} {
		if n < 1000 {
			return strconv.FormatFloat(n, 'f', min(1, len(prefix)), 64) + space(prefix+unit)
		}
		n /= 1000
	}
	return strconv.FormatFloat(n, 'f', 1, 64) + space("T"+unit)
}

func space(unit string) string {
	if unit == "" {
		return ""
	}
	return " " + unit
}
