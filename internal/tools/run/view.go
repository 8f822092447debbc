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
	last    map[string]traffic // interface and direction => totals at the last collection
	records map[string]int     // event name => records seen
}

// budget keeps a busy host from scrolling everything away.
type budget struct {
	second         time.Time
	shown, skipped int
}

// traffic is what the points of one interface and direction add up to.
type traffic struct {
	at             time.Time
	bytes, packets int64
	series         int
}

func newView(w io.Writer) *view {
	return &view{w: w, shown: map[string]*budget{}, last: map[string]traffic{}, records: map[string]int{}}
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

// metrics shows a line for each interface: totals since the start and the rate since the last collection.
func (v *view) metrics(ms []metric) {
	now := map[string]traffic{}
	active := map[string]int64{}
	for _, m := range ms {
		for i := range m.Sum.DataPoints {
			p := &m.Sum.DataPoints[i]
			iface := p.attribute("network.interface.name")
			key := iface + "\x00" + p.attribute("network.io.direction")
			t := now[key]
			t.at = p.TimeUnixNano.Time
			switch m.Name {
			case "network.flow.io":
				t.bytes += int64(p.AsInt)
				t.series++
			case "network.flow.packets":
				t.packets += int64(p.AsInt)
			case "network.flow.active":
				active[iface] += int64(p.AsInt)
				continue
			}
			now[key] = t
		}
	}
	for _, key := range slices.Sorted(maps.Keys(now)) {
		iface, direction, _ := strings.Cut(key, "\x00")
		if iface == "" {
			iface = "(more series than cardinality_limit)"
		}
		t, before := now[key], v.last[key]
		rate := ""
		// A series that timed out takes its share of the totals with it: then there is no rate to show.
		if s := t.at.Sub(before.at).Seconds(); !before.at.IsZero() && s > 0 && t.bytes >= before.bytes && t.packets >= before.packets {
			rate = fmt.Sprintf("%s/s %s packets/s, ", amount(float64(t.bytes-before.bytes)/s, "B"), amount(float64(t.packets-before.packets)/s, ""))
		}
		fmt.Fprintf(v.w, "%s metrics %s %s: %sin all %s %d packets in %d series; %d flows active\n",
			t.at.Format(clock), iface, direction, rate, amount(float64(t.bytes), "B"), t.packets, t.series, active[iface])
	}
	maps.Copy(v.last, now)
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
	resource, _ := entry["otelcol.component.id"].(string)
	if level == "info" && !strings.HasPrefix(resource, "ebpfpackets") {
		return
	}
	var line bytes.Buffer
	fmt.Fprintf(&line, "%s %-7s %v", time.Now().Format(clock), level, entry["msg"])
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
	for _, key := range slices.Sorted(maps.Keys(v.last)) {
		iface, direction, _ := strings.Cut(key, "\x00")
		fmt.Fprintf(v.w, "run: %s %s: %s, %d packets\n", iface, direction, amount(float64(v.last[key].bytes), "B"), v.last[key].packets)
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
