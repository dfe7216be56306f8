package h2

import (
	"strings"

	"github.com/np-appliance/np/ctrl/linked"
)

// priority is RFC 9218's: 0 is the most urgent.
type priority struct {
	urgency     uint8
	incremental bool
}

// Defaults (RFC 9218 §4). A client that says nothing of priorities is not one that wants
// its answers one after the other: they take turns.
var (
	plainPriority = priority{3, false}
	fairPriority  = priority{3, true}
)

// parsePriority reads a Priority field or what PRIORITY_UPDATE says (RFC 9218 §4), a
// dictionary of RFC 8941; what can't be understood is ignored, as §4 has it.
func parsePriority(p priority, s string) priority {
	for item := range strings.SplitSeq(s, ",") { // bound: a head, or a frame
		item = strings.Trim(item, " \t")
		if i := strings.IndexByte(item, ';'); i >= 0 { // parameters: there are none
			item = strings.TrimRight(item[:i], " \t")
		}
		switch {
		case len(item) == 3 && item[:2] == "u=" && item[2] >= '0' && item[2] <= '7':
			p.urgency = item[2] - '0'
		case item == "i", item == "i=?1":
			p.incremental = true
		case item == "i=?0":
			p.incremental = false
		}
	}
	return p
}

// ready holds the streams that have something to send and a window of their own for it.
// Of the most urgent, those that want their answer whole come one after the other, in the
// order in which they were asked for, those that can use parts of it take turns; where
// there are both, each kind gets half (RFC 9218 §10).
type ready struct {
	lists [8][2]linked.List[*stream]
	turns bool // the next is one of those that take turns
}

func index(b bool) int {
	if b {
		return 1
	}
	return 0
}

// add puts a stream into its list.
func (r *ready) add(st *stream) {
	if st.place.In() {
		return
	}
	l := r.listOf(st)
	before := l.Back()
	if !st.prio.incremental {
		for before != nil && before.Value.id > st.id { // bound: Config.Streams
			before = before.Prev()
		}
	}
	st.place.Value = st
	l.InsertAfter(&st.place, before)
}

// remove takes a stream out.
func (r *ready) remove(st *stream) {
	if st.place.In() {
		r.listOf(st).Remove(&st.place)
	}
}

func (r *ready) listOf(st *stream) *linked.List[*stream] {
	return &r.lists[st.prio.urgency][index(st.prio.incremental)]
}

// pick returns the stream whose turn it is; nil: there is none.
func (r *ready) pick() *stream {
	for u := range r.lists {
		one, many := r.lists[u][0].Front(), r.lists[u][1].Front()
		if one == nil && many == nil {
			continue
		}
		r.turns = !r.turns
		if many == nil || one != nil && r.turns {
			return one.Value
		}
		return many.Value
	}
	return nil
}

// move gives a stream another priority.
func (r *ready) move(st *stream, p priority) {
	if !st.place.In() {
		st.prio = p
		return
	}
	r.remove(st)
	st.prio = p
	r.add(st)
}
