package grpcgw

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// local answers reflection and health in the backends' place, by grpc-go's server.
type local struct {
	server *grpc.Server
	paths  []string

	mu     sync.Mutex
	active int           // requests
	idle   chan struct{} // not nil: closed when the last of them ends
}

// maxLocalMessage bounds questions of reflection and health.
const maxLocalMessage = 64 << 10

func newLocal(g *Gateway) *local {
	l := &local{server: grpc.NewServer(grpc.MaxRecvMsgSize(maxLocalMessage))}
	if g.opts.Reflection {
		opts := reflection.ServerOptions{Services: shown{g}, DescriptorResolver: resolver{g}, ExtensionResolver: resolver{g}}
		reflectionv1.RegisterServerReflectionServer(l.server, reflection.NewServerV1(opts))
		reflectionv1alpha.RegisterServerReflectionServer(l.server, reflection.NewServer(opts))
		l.paths = append(l.paths, "/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/")
	}
	if g.opts.Health != nil {
		healthpb.RegisterHealthServer(l.server, &health{state: g.opts.Health})
		l.paths = append(l.paths, "/grpc.health.v1.Health/")
	}
	return l
}

func (l *local) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !exchange.IsGRPC(r) || !slices.ContainsFunc(l.paths, func(p string) bool { return strings.HasPrefix(r.URL.Path, p) }) {
			next.ServeHTTP(w, r)
			return
		}
		if r.ProtoMajor < 2 { // gRPC-Web came over HTTP/1.1; what is inside is gRPC all the same
			r = r.WithContext(r.Context())
			r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0
		}
		l.count(1)
		defer l.count(-1)
		l.server.ServeHTTP(flusher{w}, r)
	})
}

// flusher makes of a writer that can flush through its Unwrap one that says so, as
// grpc-go's server wants it.
type flusher struct{ http.ResponseWriter }

// Flush implements http.Flusher.
func (f flusher) Flush() { _ = http.NewResponseController(f.ResponseWriter).Flush() }

// Unwrap is for http.ResponseController.
func (f flusher) Unwrap() http.ResponseWriter { return f.ResponseWriter }

func (l *local) close(ctx context.Context) {
	l.mu.Lock()
	idle := make(chan struct{})
	if l.active == 0 {
		close(idle)
	} else {
		l.idle = idle
	}
	l.mu.Unlock()
	select {
	case <-idle:
	case <-ctx.Done():
	}
	l.server.Stop()
}

func (l *local) count(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.active += n; l.active == 0 && l.idle != nil {
		close(l.idle)
		l.idle = nil
	}
}

// shown lists what reflection shows.
type shown struct{ g *Gateway }

func (s shown) GetServiceInfo() map[string]grpc.ServiceInfo {
	out := map[string]grpc.ServiceInfo{}
	names := s.g.opts.Services
	if b := s.g.bound.p.Load(); len(names) == 0 && b != nil {
		names = b.schema.Services()
	}
	for _, name := range names {
		out[name] = grpc.ServiceInfo{}
	}
	for _, p := range s.g.local.paths {
		out[strings.Trim(p, "/")] = grpc.ServiceInfo{}
	}
	return out
}

// resolver finds descriptors of the schema, then those of what the gateway serves itself.
type resolver struct{ g *Gateway }

func (r resolver) files() *protoregistry.Files {
	if b := r.g.bound.p.Load(); b != nil {
		return b.schema.files
	}
	return &protoregistry.Files{}
}

func (r resolver) FindFileByPath(path string) (protoreflect.FileDescriptor, error) {
	if f, err := r.files().FindFileByPath(path); err == nil {
		return f, nil
	}
	return protoregistry.GlobalFiles.FindFileByPath(path)
}

func (r resolver) FindDescriptorByName(name protoreflect.FullName) (protoreflect.Descriptor, error) {
	if d, err := r.files().FindDescriptorByName(name); err == nil {
		return d, nil
	}
	return protoregistry.GlobalFiles.FindDescriptorByName(name)
}

func (r resolver) FindExtensionByName(name protoreflect.FullName) (protoreflect.ExtensionType, error) {
	if b := r.g.bound.p.Load(); b != nil {
		if t, err := b.schema.types.FindExtensionByName(name); err == nil {
			return t, nil
		}
	}
	return protoregistry.GlobalTypes.FindExtensionByName(name)
}

func (r resolver) FindExtensionByNumber(m protoreflect.FullName, n protoreflect.FieldNumber) (protoreflect.ExtensionType, error) {
	if b := r.g.bound.p.Load(); b != nil {
		if t, err := b.schema.types.FindExtensionByNumber(m, n); err == nil {
			return t, nil
		}
	}
	return protoregistry.GlobalTypes.FindExtensionByNumber(m, n)
}

func (r resolver) RangeExtensionsByMessage(m protoreflect.FullName, f func(protoreflect.ExtensionType) bool) {
	protoregistry.GlobalTypes.RangeExtensionsByMessage(m, f)
}

// health answers grpc.health.v1.
type health struct {
	healthpb.UnimplementedHealthServer
	state func(service string) (serving, known bool)
}

// healthEvery is how often Watch looks.
const healthEvery = time.Second

func (h *health) status(service string) (healthpb.HealthCheckResponse_ServingStatus, bool) {
	serving, known := h.state(service)
	switch {
	case !known:
		return healthpb.HealthCheckResponse_SERVICE_UNKNOWN, false
	case serving:
		return healthpb.HealthCheckResponse_SERVING, true
	}
	return healthpb.HealthCheckResponse_NOT_SERVING, true
}

// Check implements the service.
func (h *health) Check(_ context.Context, r *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	s, known := h.status(r.GetService())
	if !known {
		return nil, status.Error(codes.NotFound, "unknown service")
	}
	return &healthpb.HealthCheckResponse{Status: s}, nil
}

// Watch implements the service: what there is at once, then each change.
func (h *health) Watch(r *healthpb.HealthCheckRequest, s healthpb.Health_WatchServer) error {
	last := healthpb.HealthCheckResponse_ServingStatus(-1)
	tick := time.NewTicker(healthEvery)
	defer tick.Stop()
	for {
		if now, _ := h.status(r.GetService()); now != last {
			if err := s.Send(&healthpb.HealthCheckResponse{Status: now}); err != nil {
				return err
			}
			last = now
		}
		select {
		case <-s.Context().Done():
			return status.FromContextError(s.Context().Err()).Err()
		case <-tick.C:
		}
	}
}
