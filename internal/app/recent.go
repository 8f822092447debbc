// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package app

import "iter"

// recent is a map of at most max entries in the order of their last use. Entries that were dropped are used again.
type recent[K comparable, V any] struct {
	max     int
	entries map[K]*entry[K, V]
	ends    entry[K, V]  // of the ring: newer is the oldest entry, older the newest
	free    *entry[K, V] // linked by newer
}

type entry[K comparable, V any] struct {
	key          K
	value        V
	older, newer *entry[K, V]
}

func newRecent[K comparable, V any](most int) *recent[K, V] {
	r := &recent[K, V]{max: max(most, 1), entries: map[K]*entry[K, V]{}}
	r.ends.older, r.ends.newer = &r.ends, &r.ends
	return r
}

func (r *recent[K, V]) len() int { return len(r.entries) }

// get returns the value of k, nil if there is none. It is no use.
func (r *recent[K, V]) get(k K) *V {
	if e := r.entries[k]; e != nil {
		return &e.value
	}
	return nil
}

// use returns the value of k, which becomes the newest; nil if there is none.
func (r *recent[K, V]) use(k K) *V {
	e := r.entries[k]
	if e == nil {
		return nil
	}
	e.unlink()
	r.link(e)
	return &e.value
}

// put adds k, which is not there, as the newest. The oldest must leave first where there is no room: see full.
func (r *recent[K, V]) put(k K, v V) *V {
	e := r.free
	if e == nil {
		e = new(entry[K, V])
	} else {
		r.free = e.newer
	}
	e.key, e.value = k, v
	r.entries[k] = e
	r.link(e)
	return &e.value
}

func (r *recent[K, V]) full() bool { return len(r.entries) >= r.max }

// oldest returns the entry that was used longest ago, nil if there is none.
func (r *recent[K, V]) oldest() *entry[K, V] {
	if r.len() == 0 {
		return nil
	}
	return r.ends.newer
}

// all visits every entry, the oldest first. The one visited may be dropped.
func (r *recent[K, V]) all() iter.Seq[*entry[K, V]] {
	return func(yield func(*entry[K, V]) bool) {
		for e := r.ends.newer; e != &r.ends; {
			next := e.newer
			if !yield(e) {
				return
			}
			e = next
		}
	}
}

// drop removes k, if it is there.
func (r *recent[K, V]) drop(k K) {
	e := r.entries[k]
	if e == nil {
		return
	}
	delete(r.entries, k)
	e.unlink()
	*e = entry[K, V]{newer: r.free}
	r.free = e
}

func (r *recent[K, V]) link(e *entry[K, V]) {
	e.older, e.newer = r.ends.older, &r.ends
	e.older.newer, r.ends.older = e, e
}

func (e *entry[K, V]) unlink() {
	e.older.newer, e.newer.older = e.newer, e.older
}
