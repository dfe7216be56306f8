package gateway

import (
	"errors"
	"net/http"
	"sync/atomic"
)

// through sends requests of policies through an [[upstream]]: the one of its name in the
// generation in force, whichever outlives the other at a reload.
type through struct {
	name string
	at   atomic.Pointer[cluster]
}

// through makes one; nil without a name. That there is such an upstream is checked by config.
func (b *builder) through(name string) *through {
	if name == "" {
		return nil
	}
	t := &through{name: name}
	t.in(b.next.clusters)
	return t
}

// in has it go by another generation's upstreams from now on.
func (t *through) in(clusters map[string]*cluster) {
	if t != nil {
		t.at.Store(clusters[t.name])
	}
}

// Do sends a request.
func (t *through) Do(r *http.Request) (*http.Response, error) {
	c := t.at.Load()
	if c == nil { // it could not be made, which was said
		return nil, errors.New("upstream " + t.name + " is not there")
	}
	return c.fwd.Do(r)
}
