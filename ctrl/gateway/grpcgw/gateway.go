package grpcgw

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// Doer sends requests to a cluster that speaks HTTP/2.
type Doer interface {
	Do(*http.Request) (*http.Response, error)
}

// Options say what a route does for gRPC. The zero value guards gRPC requests alone.
type Options struct {
	Limits Limits
	// Web takes gRPC-Web requests.
	Web bool

	// JSON takes HTTP requests with JSON. It needs Schema or Reflect.
	JSON bool
	// Schema has the descriptors.
	Schema *Schema
	// Reflect is asked for the descriptors when there is no Schema, and every Refresh (0:
	// only until it answered) for changed ones.
	Reflect Doer
	Refresh time.Duration
	// Services are those that JSON reaches and that reflection shows; none named: all.
	Services []string
	// AutoBind binds methods without google.api.http to POST on their gRPC path.
	AutoBind bool
	// JSONOptions say how JSON looks.
	JSONOptions JSONOptions
	// PassUnmatched sends on as they are requests that no binding matches.
	PassUnmatched bool

	// REST: the upstream speaks HTTP with JSON, and gRPC calls become such requests by the
	// rules of google.api.http. It needs Schema, and excludes JSON: requests that are no gRPC
	// pass as they are.
	REST bool
	// RESTPrefix goes before the paths of the rules.
	RESTPrefix string

	// Reflection: the gateway answers grpc.reflection.v1 and v1alpha. It needs Schema or Reflect.
	Reflection bool
	// Health: the gateway answers grpc.health.v1 by what this says of a service; "" is the
	// gateway as a whole. Nil: it is a service like any other.
	Health func(service string) (serving, known bool)

	// Note is told of errors that no request shows: descriptors that could not be had. Nil: nobody.
	Note func(error)
}

// Gateway is the stages of one route.
type Gateway struct {
	opts  Options
	bound holder
	rest  map[string][]*binding // nil: the upstream speaks gRPC
	local *local

	mu      sync.Mutex
	stop    context.CancelFunc
	running sync.WaitGroup
}

// New checks the options and compiles what can be. Where descriptors come from
// reflection, Run fetches them.
func New(o Options) (*Gateway, error) {
	var errs []error
	errs = append(errs, o.Limits.check())
	if (o.JSON || o.Reflection) && o.Schema == nil && o.Reflect == nil {
		errs = append(errs, errors.New("JSON and reflection need descriptors: a file, or a backend that serves reflection"))
	}
	if o.JSONOptions.Stream > StreamArray {
		errs = append(errs, fmt.Errorf("stream %d is not known", o.JSONOptions.Stream))
	}
	if o.Refresh < 0 || o.Refresh > 0 && o.Refresh < time.Second {
		errs = append(errs, fmt.Errorf("refresh is %v, expected 0 or at least 1s", o.Refresh))
	}
	g := &Gateway{opts: o}
	if o.REST {
		errs = append(errs, restPrefix(o.RESTPrefix))
		switch {
		case o.JSON:
			errs = append(errs, errors.New("the upstream can't speak JSON and gRPC, expected one of them"))
		case o.Schema == nil:
			errs = append(errs, errors.New("an upstream that speaks JSON needs descriptors of a file: it has no reflection"))
		default:
			var err error
			g.rest, err = o.Schema.restMethods(o.Services, o.AutoBind)
			errs = append(errs, err)
		}
	} else if o.RESTPrefix != "" {
		errs = append(errs, errors.New("rest_prefix is for an upstream that speaks JSON, expected rest = true with it"))
	}
	if o.Schema != nil && o.JSON {
		b, err := g.compile(o.Schema)
		if err == nil && b.count == 0 {
			err = errors.New("no method has a google.api.http option, so JSON would reach nothing (auto_bind binds all)")
		}
		errs = append(errs, err)
		g.bound.p.Store(b)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if g.bound.p.Load() == nil && o.Schema != nil {
		g.bound.p.Store(&bound{schema: o.Schema, root: &node{}})
	}
	if o.Reflection || o.Health != nil {
		g.local = newLocal(g)
	}
	return g, nil
}

func (g *Gateway) compile(s *Schema) (*bound, error) {
	root, n, err := s.bind(g.opts.Services, g.opts.AutoBind)
	if err != nil {
		return nil, err
	}
	return &bound{schema: s, root: root, count: n}, nil
}

// Handler puts the stages in front of next, which sends requests on.
func (g *Gateway) Handler(next http.Handler) http.Handler {
	if g.rest != nil {
		next = &rest{methods: g.rest, schema: g.opts.Schema, opts: g.opts.JSONOptions, limits: g.opts.Limits, prefix: g.opts.RESTPrefix, next: next}
	}
	var h http.Handler = &guard{limits: g.opts.Limits, next: next}
	if g.local != nil {
		h = g.local.handler(h)
	}
	if g.opts.JSON {
		h = &transcoder{source: g.bound.p.Load, opts: g.opts.JSONOptions, limits: g.opts.Limits, unmatched: g.opts.PassUnmatched, next: h}
	}
	if g.opts.Web {
		h = &web{trailers: webTrailers, next: h}
	}
	return h
}

// Ready says whether descriptors are there, or none are needed.
func (g *Gateway) Ready() bool {
	return g.bound.p.Load() != nil || !g.opts.JSON && !g.opts.Reflection
}

// Load asks Reflect for the descriptors once.
func (g *Gateway) Load(ctx context.Context) error {
	s, err := Fetch(ctx, g.opts.Reflect, g.opts.Services)
	if err != nil {
		return err
	}
	return g.use(s)
}

// use puts descriptors in force.
func (g *Gateway) use(s *Schema) error {
	b := &bound{schema: s, root: &node{}}
	if g.opts.JSON {
		var err error
		if b, err = g.compile(s); err != nil {
			return err
		}
	}
	g.bound.p.Store(b)
	return nil
}

// Adopt takes over the descriptors that another gateway got by reflection, so that one
// which takes its place needs not begin without any. Run asks for them anew all the same.
func (g *Gateway) Adopt(old *Gateway) error {
	have := old.bound.p.Load()
	if have == nil || g.opts.Reflect == nil || g.opts.Schema != nil || old.opts.Schema != nil {
		return nil
	}
	return g.use(have.schema)
}

// Pauses between attempts to get descriptors.
const (
	reflectPause    = 250 * time.Millisecond
	reflectMaxPause = 15 * time.Second
	reflectTimeout  = 10 * time.Second
)

// Run fetches descriptors by reflection until they are there, and then every Refresh. It
// ends with ctx; without Reflect it only waits for it.
func (g *Gateway) Run(ctx context.Context) {
	if g.opts.Reflect == nil || g.opts.Schema != nil {
		<-ctx.Done()
		return
	}
	pause := reflectPause
	for {
		try, cancel := context.WithTimeout(ctx, reflectTimeout)
		err := g.Load(try)
		cancel()
		wait := g.opts.Refresh
		switch {
		case err != nil && ctx.Err() == nil:
			if g.opts.Note != nil {
				g.opts.Note(fmt.Errorf("descriptors by reflection: %w", err))
			}
			wait = pause
			pause = min(2*pause, reflectMaxPause)
		default:
			pause = reflectPause
		}
		if wait == 0 { // once is enough
			<-ctx.Done()
			return
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

// Start runs Run on a goroutine of its own until Close.
func (g *Gateway) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	g.mu.Lock()
	g.stop = cancel
	g.mu.Unlock()
	g.running.Go(func() { g.Run(ctx) })
}

// Close ends what Start began. Streams of reflection and health that are under way end
// by themselves, or when ctx does.
func (g *Gateway) Close(ctx context.Context) {
	g.mu.Lock()
	if g.stop != nil {
		g.stop()
	}
	g.mu.Unlock()
	if g.local != nil {
		g.local.close(ctx)
	}
	g.running.Wait()
}
