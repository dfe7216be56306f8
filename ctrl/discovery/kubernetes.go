package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/np-appliance/np/ctrl/upstream"
)

// Kubernetes is a [upstream.Source] of a service's EndpointSlices (discovery.k8s.io/v1),
// listed once and then watched.
//
// What is ready takes requests. What serves while it terminates is drained. All else is
// left out.
type Kubernetes struct {
	Address   string // HOST:PORT of the API server; "": that of the cluster this runs in
	TLS       *TLS   // nil with an Address: plain, as kubectl proxy has it
	TokenFile string // of a bearer token, read for each request; "": none, or the service account's
	Namespace string // "": the service account's
	Service   string // required
	Port      string // name or number; "": the only one that there is
	Family    Family
	KeepLast  bool          // no endpoints any more: the list before stays
	Watch     time.Duration // of one watch; 5 min

	Dial    upstream.DialFunc
	Clock   upstream.Clock
	Rand    func() uint64
	Getenv  func(string) string // os.Getenv when nil
	Account string              // "/var/run/secrets/kubernetes.io/serviceaccount" when empty

	feed
	api       api
	namespace string
	slices    map[string]*slice
	version   string // of the list or of the last event, to watch from
}

const (
	kubePage      = 250 // slices asked for at once
	kubeBody      = 32 << 20
	kubeLine      = 4 << 20 // bytes of one event; the server's own limit of an object is below 2 MiB
	maxSlices     = 1_000
	kubeTimeout   = 15 * time.Second // of a list, and beyond the time of a watch
	maxConditions = 10 * upstream.MaxEndpoints
)

// check sets defaults and says what is wrong, as far as it can be told without a look at
// where this runs.
func (k *Kubernetes) check() error {
	defaultTo(&k.Watch, 5*time.Minute)
	defaultTo(&k.Account, "/var/run/secrets/kubernetes.io/serviceaccount")
	if k.Dial == nil {
		k.Dial = (&net.Dialer{}).DialContext
	}
	if k.Clock == nil {
		k.Clock = upstream.SystemClock{}
	}
	if k.Rand == nil {
		k.Rand = randomBits
	}
	if k.Getenv == nil {
		k.Getenv = os.Getenv
	}
	if k.Watch < time.Second {
		return fmt.Errorf("kubernetes: watch %v: expected at least 1s", k.Watch)
	}
	if k.Address != "" {
		if err := checkServer(k.Address); err != nil {
			return fmt.Errorf("kubernetes: %w", err)
		}
	}
	if k.Namespace != "" && !kubeName(k.Namespace) || !kubeName(k.Service) {
		return fmt.Errorf("kubernetes: namespace %q, service %q: expected names of lower case letters, digits and -", k.Namespace, k.Service)
	}
	if n, err := strconv.Atoi(k.Port); k.Port != "" && (err != nil && !kubeName(k.Port) || err == nil && (n < 1 || n > 65535)) {
		return fmt.Errorf("kubernetes: port %q: expected a port's name or number", k.Port)
	}
	return nil
}

// locate finds out where the API server is, from the pod's surroundings if it must.
func (k *Kubernetes) locate() error {
	k.api = api{address: k.Address, tls: k.TLS, tokenFile: k.TokenFile, header: "Authorization", prefix: "Bearer ", dial: k.Dial}
	if k.Address == "" {
		host, port := k.Getenv("KUBERNETES_SERVICE_HOST"), k.Getenv("KUBERNETES_SERVICE_PORT")
		if host == "" || port == "" {
			return errors.New("kubernetes: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: expected to run in a pod, or the API server's HOST:PORT")
		}
		k.api.address = net.JoinHostPort(host, port)
		if k.api.tls == nil {
			k.api.tls = &TLS{CAFile: filepath.Join(k.Account, "ca.crt")}
		}
		if k.api.tokenFile == "" {
			k.api.tokenFile = filepath.Join(k.Account, "token")
		}
		if err := checkServer(k.api.address); err != nil {
			return fmt.Errorf("kubernetes: KUBERNETES_SERVICE_HOST, _PORT: %w", err)
		}
	}
	k.namespace = k.Namespace
	if k.namespace == "" {
		b, err := readSecret(filepath.Join(k.Account, "namespace"))
		if err != nil {
			return fmt.Errorf("kubernetes: expected a namespace, or that of the service account: %w", err)
		}
		if !kubeName(b) {
			return fmt.Errorf("kubernetes: namespace %.100q of the service account: expected a name", b)
		}
		k.namespace = b
	}
	return nil
}

// kubeName says whether s can be the name of a namespace, a service or a port.
func kubeName(s string) bool {
	return s != "" && len(s) <= 63 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == "" && s[0] != '-' && s[len(s)-1] != '-'
}

// errGone: the server no longer has what happened after our version.
var errGone = errors.New("what changed since is gone from the server's history")

// Run implements [upstream.Source].
func (k *Kubernetes) Run(ctx context.Context, apply func([]upstream.Spec) error, report func(error)) error {
	if err := errors.Join(k.check(), k.locate()); err != nil {
		return err
	}
	defer k.api.close()
	k.begin(k.Clock, keeping(k.KeepLast), apply, func(err error) {
		report(fmt.Errorf("kubernetes %s/%s: %w", k.namespace, k.Service, err))
	})
	again := backoff{min: time.Second, max: 30 * time.Second}
	for {
		begun := k.Clock.Now()
		err := k.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if k.Clock.Now().Sub(begun) > settled {
			again.ok()
		}
		if errors.Is(err, errGone) && again.failures == 0 {
			again.failures++ // ordinary after a while without changes: list again, at once
			continue
		}
		k.api.close()
		k.fail(err)
		if !sleep(ctx, k.Clock, again.next(k.Rand())) {
			return nil
		}
	}
}

// session lists, and watches until there is an error. A watch that ends by its time goes
// on with the next from where it was.
func (k *Kubernetes) session(ctx context.Context) error {
	if err := k.list(ctx); err != nil {
		return err
	}
	k.publish()
	for {
		begun := k.Clock.Now()
		if err := k.watch(ctx); err != nil {
			return err
		}
		// A server that ends each watch at once must not be asked without end.
		if w := time.Second - k.Clock.Now().Sub(begun); w > 0 && !sleep(ctx, k.Clock, w) {
			return nil
		}
	}
}

// publish applies what the slices say.
func (k *Kubernetes) publish() {
	specs, wrong := merge(k.slices, k.Port, k.Family)
	k.put(specs, false, wrong)
}
