package linked

// Node is one place in a list. It is a field of what is listed, one for each list that
// this may be in at a time, and must not be copied while it is in one.
type Node[T any] struct {
	Value      T // what is listed, usually what the node is a field of; its owner sets it
	prev, next *Node[T]
	in         bool
}

// In says whether the node is in a list.
func (n *Node[T]) In() bool { return n.in }

// Next is the one behind it; nil: it is the last.
func (n *Node[T]) Next() *Node[T] { return n.next }

// Prev is the one before it; nil: it is the first.
func (n *Node[T]) Prev() *Node[T] { return n.prev }

// List is a list; the zero value is an empty one.
type List[T any] struct {
	front, back *Node[T]
	n           int
}

// Len is how many are listed.
func (l *List[T]) Len() int { return l.n }

// Front is the first; nil: there is none.
func (l *List[T]) Front() *Node[T] { return l.front }

// Back is the last; nil: there is none.
func (l *List[T]) Back() *Node[T] { return l.back }

// PushFront puts a node that is in no list before all others.
func (l *List[T]) PushFront(n *Node[T]) { l.InsertAfter(n, nil) }

// PushBack puts a node that is in no list behind all others.
func (l *List[T]) PushBack(n *Node[T]) { l.InsertAfter(n, l.back) }

// InsertAfter puts a node that is in no list behind one of this list; nil: before all.
func (l *List[T]) InsertAfter(n, at *Node[T]) {
	if n.in {
		panic("linked: a node that is in a list already")
	}
	n.prev, n.in = at, true
	if at != nil {
		n.next, at.next = at.next, n
	} else {
		n.next, l.front = l.front, n
	}
	if n.next != nil {
		n.next.prev = n
	} else {
		l.back = n
	}
	l.n++
}

// Remove takes a node out of this list.
func (l *List[T]) Remove(n *Node[T]) {
	if !n.in {
		panic("linked: a node that is in no list")
	}
	if n.prev != nil {
		n.prev.next = n.next
	} else {
		l.front = n.next
	}
	if n.next != nil {
		n.next.prev = n.prev
	} else {
		l.back = n.prev
	}
	n.prev, n.next, n.in = nil, nil, false
	l.n--
}

// PopFront takes the first out; nil: there is none.
func (l *List[T]) PopFront() *Node[T] {
	n := l.front
	if n != nil {
		l.Remove(n)
	}
	return n
}
