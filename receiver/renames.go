// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"go.opentelemetry.io/collector/featuregate"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

// rename is a name of tier 2 or 3 that becomes another one while a feature gate is enabled. The schema URL stays: it names
// a version of the semantic conventions, and those names are not renamed here.
type rename struct {
	gate     string // receiver.ebpfpackets.<WhatItDoes>
	about    string // description of the gate
	since    string // version of this module that has it, "v0.2.0"
	kind     nameKind
	from, to string
}

// renames holds the renames on offer: none yet. The CHANGELOG has a snippet for the transform processor for each.
var renames = registerRenames(featuregate.GlobalRegistry(), nil)

// gatedRename is a rename whose gate is registered.
type gatedRename struct {
	rename
	enabled func() bool
}

// registerRenames registers each gate once: one gate may rename several names.
func registerRenames(in *featuregate.Registry, all []rename) []gatedRename {
	gates := map[string]*featuregate.Gate{}
	var gated []gatedRename
	for _, r := range all {
		if gates[r.gate] == nil {
			gates[r.gate] = in.MustRegister(r.gate, featuregate.StageAlpha,
				featuregate.WithRegisterDescription(r.about), featuregate.WithRegisterFromVersion(r.since))
		}
		gated = append(gated, gatedRename{r, gates[r.gate].IsEnabled})
	}
	return gated
}

// renameMetrics gives finished metrics the names of the enabled gates. Every message passes it once, just before it leaves.
func renameMetrics(md pmetric.Metrics) { applyToMetrics(renames, md) }

// renameLogs does the same for finished log records.
func renameLogs(ld plog.Logs) { applyToLogs(renames, ld) }

// nameOf returns what a name is called in what leaves: another one while a gate says so.
func nameOf(kind nameKind, name string) string {
	for _, r := range renames {
		if r.kind == kind && r.from == name && r.enabled() {
			return r.to
		}
	}
	return name
}

func applyToMetrics(all []gatedRename, md pmetric.Metrics) {
	for _, r := range all {
		if !r.enabled() {
			continue
		}
		for _, rm := range md.ResourceMetrics().All() {
			for _, sm := range rm.ScopeMetrics().All() {
				for _, m := range sm.Metrics().All() {
					r.metric(m)
				}
			}
		}
	}
}

func (r *gatedRename) metric(m pmetric.Metric) {
	switch {
	case r.kind == kindMetric && m.Name() == r.from:
		m.SetName(r.to)
	case r.kind == kindAttribute:
		for _, dp := range m.Sum().DataPoints().All() {
			r.attribute(dp.Attributes())
		}
	}
}

func applyToLogs(all []gatedRename, ld plog.Logs) {
	for _, r := range all {
		if !r.enabled() {
			continue
		}
		for _, rl := range ld.ResourceLogs().All() {
			for _, sl := range rl.ScopeLogs().All() {
				for _, record := range sl.LogRecords().All() {
					r.record(record)
				}
			}
		}
	}
}

func (r *gatedRename) record(record plog.LogRecord) {
	switch {
	case r.kind == kindEvent && record.EventName() == r.from:
		record.SetEventName(r.to)
	case r.kind == kindAttribute:
		r.attribute(record.Attributes())
	}
}

func (r *gatedRename) attribute(m pcommon.Map) {
	v, ok := m.Get(r.from)
	if !ok {
		return
	}
	kept := pcommon.NewValueEmpty()
	v.MoveTo(kept)
	m.Remove(r.from)
	kept.MoveTo(m.PutEmpty(r.to))
}
