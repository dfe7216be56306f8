package h2

import "sync"

// task is what a worker does: a request's handler, or with no stream sending what a
// connection's buffer holds.
type task struct {
	c  *Conn
	st *stream
}

func (t task) run() {
	if t.st != nil {
		t.st.serve()
	} else {
		t.c.flushTask()
	}
}

// workers are goroutines that wait for the next task when they have done one.
type workers struct {
	mu     sync.Mutex
	idle   []chan task
	low    int  // fewest that were idle since the last trim
	ending bool // none is to wait
	wg     sync.WaitGroup
}

// maxIdle bounds the workers that wait.
const maxIdle = 1024

// run has a task done. It does not wait.
func (w *workers) run(t task) {
	w.mu.Lock()
	n := len(w.idle)
	if n == 0 {
		w.low = 0
		w.wg.Add(1)
		w.mu.Unlock()
		go w.work(t)
		return
	}
	in := w.idle[n-1]
	w.idle = w.idle[:n-1]
	w.low = min(w.low, n-1)
	w.mu.Unlock()
	in <- t // it has room: who is in the list waits for one
}

func (w *workers) work(t task) {
	defer w.wg.Done()
	in := make(chan task, 1)
	for {
		t.run()
		t = task{}
		w.mu.Lock()
		if w.ending || len(w.idle) >= maxIdle {
			w.mu.Unlock()
			return
		}
		w.idle = append(w.idle, in)
		w.mu.Unlock()
		var ok bool
		if t, ok = <-in; !ok {
			return
		}
	}
}

// trim ends the workers that nobody has needed since it was called last.
func (w *workers) trim() {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := min(w.low, len(w.idle))
	for _, in := range w.idle[:n] { // the oldest
		close(in)
	}
	w.idle = w.idle[:copy(w.idle, w.idle[n:])]
	w.low = len(w.idle)
}

// end ends all that wait, and waits for those that work.
func (w *workers) end() {
	w.mu.Lock()
	w.ending = true
	for _, in := range w.idle {
		close(in)
	}
	w.idle, w.low = nil, 0
	w.mu.Unlock()
	w.wg.Wait()
	w.mu.Lock()
	w.ending = false
	w.mu.Unlock()
}
