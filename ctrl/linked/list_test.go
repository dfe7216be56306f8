package linked

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestModel compares with a slice, whatever is done in whichever order, forwards and backwards.
func TestModel(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var l List[int]
	nodes := make([]Node[int], 40)
	for i := range nodes {
		nodes[i].Value = i
	}
	var model []int
	for range 20_000 {
		i := r.IntN(len(nodes))
		n, at := &nodes[i], slices.Index(model, i)
		if n.In() != (at >= 0) {
			t.Fatalf("%d is listed: %v", i, n.In())
		}
		switch op := r.IntN(4); {
		case at >= 0:
			l.Remove(n)
			model = slices.Delete(model, at, at+1)
		case op == 0:
			l.PushFront(n)
			model = slices.Insert(model, 0, i)
		case op == 1 && len(model) > 0:
			before := r.IntN(len(model))
			l.InsertAfter(n, &nodes[model[before]])
			model = slices.Insert(model, before+1, i)
		case op == 2 && len(model) > 0:
			if first := l.PopFront(); first.Value != model[0] || first.In() {
				t.Fatalf("took %d, expected %d", first.Value, model[0])
			}
			model = model[1:]
		default:
			l.PushBack(n)
			model = append(model, i)
		}
		var ahead, back []int
		for n := l.Front(); n != nil; n = n.Next() {
			ahead = append(ahead, n.Value)
		}
		for n := l.Back(); n != nil; n = n.Prev() {
			back = append(back, n.Value)
		}
		slices.Reverse(back)
		if !slices.Equal(ahead, model) || !slices.Equal(back, model) || l.Len() != len(model) {
			t.Fatalf("%v and backwards %v, expected %v", ahead, back, model)
		}
	}
	for l.PopFront() != nil {
	}
	if l.Front() != nil || l.Back() != nil || l.Len() != 0 || l.PopFront() != nil {
		t.Error("an empty list has something")
	}
}

// TestMisuse: what would tear two lists apart is told at once.
func TestMisuse(t *testing.T) {
	var a List[int]
	var n Node[int]
	panics := func(f func()) (did bool) {
		defer func() { did = recover() != nil }()
		f()
		return
	}
	if !panics(func() { a.Remove(&n) }) {
		t.Error("a node that is in no list was taken out")
	}
	a.PushBack(&n)
	if !panics(func() { a.PushBack(&n) }) {
		t.Error("a node was put in twice")
	}
}
