package discovery

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/np-appliance/np/ctrl/upstream"
)

// Etcd is a [upstream.Source] of the keys of an etcd store that begin with a prefix: one
// endpoint a key. A value is HOST:PORT, with weight=N and the other words that files of
// endpoints know, or JSON:
//
//	{"address": "198.18.0.1:80", "weight": 2, "priority": 0, "locality": "", "drain": false, "disabled": false}
//
// of which all but the address may be left out; what etcd's own naming library writes is
// understood as well. A key whose value is wrong keeps the endpoint it had, and is told.
//
// Keys are read once and then watched. Each Check the store is asked whether it still
// answers, since a watch is silent both when nothing changes and when it is cut off.
type Etcd struct {
	Addresses    []string // HOST:PORT of each server; required
	Prefix       string   // of keys; required; "/services/api/" is not in "/services/api2/" for its last slash
	TLS          *TLS     // nil: plain
	User         string
	PasswordFile string
	KeepLast     bool          // no endpoints any more: the list before stays
	Check        time.Duration // 10 s
	Timeout      time.Duration // of one request; 5 s

	Dial  upstream.DialFunc
	Clock upstream.Clock
	Rand  func() uint64

	feed
	entries map[string]upstream.Spec
	wrong   map[string]error
	over    bool // keys were left out, there are too many
}

const (
	etcdPage    = 500     // keys asked for at once
	etcdMessage = 8 << 20 // bytes of one answer
	maxWrong    = 100     // keys whose errors are remembered
)

func (e *Etcd) defaults() error {
	defaultTo(&e.Check, 10*time.Second)
	defaultTo(&e.Timeout, 5*time.Second)
	if e.Dial == nil {
		e.Dial = (&net.Dialer{}).DialContext
	}
	if e.Clock == nil {
		e.Clock = upstream.SystemClock{}
	}
	if e.Rand == nil {
		e.Rand = randomBits
	}
	if len(e.Addresses) == 0 || len(e.Addresses) > 16 {
		return fmt.Errorf("etcd: %d addresses: expected 1 to 16", len(e.Addresses))
	}
	for _, a := range e.Addresses {
		if err := checkServer(a); err != nil {
			return fmt.Errorf("etcd: %w", err)
		}
	}
	switch {
	case e.Prefix == "":
		return errors.New("etcd: expected a prefix of keys, such as /services/api/")
	case (e.User == "") != (e.PasswordFile == ""):
		return errors.New("etcd: expected a user and a file of its password, or neither")
	case e.Check < time.Millisecond || e.Timeout < time.Millisecond:
		return fmt.Errorf("etcd: check %v, timeout %v: expected at least 1ms", e.Check, e.Timeout)
	}
	return nil
}

// Run implements [upstream.Source].
func (e *Etcd) Run(ctx context.Context, apply func([]upstream.Spec) error, report func(error)) error {
	if err := e.defaults(); err != nil {
		return err
	}
	e.begin(e.Clock, keeping(e.KeepLast), apply, func(err error) { report(fmt.Errorf("etcd %s: %w", e.Prefix, err)) })
	again := backoff{min: 500 * time.Millisecond, max: 30 * time.Second}
	for {
		begun := e.Clock.Now()
		err := e.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if e.Clock.Now().Sub(begun) > settled {
			again.ok()
		}
		if (errors.Is(err, rpctypes.ErrCompacted) || errors.Is(err, errMissed) || errors.Is(err, errReplaced)) && again.failures == 0 {
			again.failures++ // what was missed can't be watched: read all again, at once
			continue
		}
		e.fail(err)
		if !sleep(ctx, e.Clock, again.next(e.Rand())) {
			return nil
		}
	}
}

func keeping(last bool) int {
	if last {
		return 0
	}
	return 1
}

// session is one client's life: it ends with an error, or with ctx.
func (e *Etcd) session(ctx context.Context) (err error) {
	var last lastError
	defer func() { err = last.explain(err) }()
	client, err := e.open(ctx, &last)
	if err != nil {
		return err
	}
	defer client.Close()
	cluster, revision, err := e.list(ctx, client)
	if err != nil {
		return err
	}
	e.put(e.specs(), false, e.fault())
	return e.watch(ctx, client, cluster, revision)
}

func (e *Etcd) open(ctx context.Context, last *lastError) (*clientv3.Client, error) {
	conf, err := e.TLS.config()
	if err != nil {
		return nil, err
	}
	c := clientv3.Config{
		DialTimeout:          e.Timeout,
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: e.Timeout,
		MaxCallRecvMsgSize:   etcdMessage,
		TLS:                  conf,
		Username:             e.User,
		Context:              ctx,
		Logger:               zap.NewNop(), // what matters comes back as errors
		MaxUnaryRetries:      2,
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			conn, err := e.Dial(ctx, "tcp", address)
			last.set(err)
			return conn, err
		})},
	}
	scheme := "http://"
	if conf != nil {
		scheme = "https://"
		c.DialOptions = append(c.DialOptions, grpc.WithTransportCredentials(&noting{credentials.NewTLS(conf), e.TLS.ServerName, last}))
	}
	for _, a := range e.Addresses {
		c.Endpoints = append(c.Endpoints, scheme+a)
	}
	if e.PasswordFile != "" {
		if c.Password, err = readSecret(e.PasswordFile); err != nil {
			return nil, err
		}
	}
	return clientv3.New(c)
}

// lastError is why there is no connection: the client itself often tells only that time
// ran out.
type lastError struct{ err atomic.Pointer[error] }

func (l *lastError) set(err error) {
	if err != nil {
		l.err.Store(&err)
	} else {
		l.err.Store(nil)
	}
}

func (l *lastError) explain(err error) error {
	if p := l.err.Load(); err != nil && p != nil && !strings.Contains(err.Error(), (*p).Error()) {
		return fmt.Errorf("%w: %w", err, *p)
	}
	return err
}

// noting remembers errors of handshakes, and has the name that is configured verified
// where the client would have each address's own.
type noting struct {
	credentials.TransportCredentials
	name string
	last *lastError
}

// ClientHandshake implements [credentials.TransportCredentials].
func (n *noting) ClientHandshake(ctx context.Context, authority string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if n.name != "" {
		authority = n.name
	}
	conn, info, err := n.TransportCredentials.ClientHandshake(ctx, authority, c)
	n.last.set(err)
	return conn, info, err
}

// Clone implements [credentials.TransportCredentials].
func (n *noting) Clone() credentials.TransportCredentials {
	return &noting{n.TransportCredentials.Clone(), n.name, n.last}
}

// list reads all keys, as they were at one revision.
func (e *Etcd) list(ctx context.Context, client *clientv3.Client) (cluster uint64, revision int64, err error) {
	before := e.entries
	e.entries, e.wrong, e.over = map[string]upstream.Spec{}, map[string]error{}, false
	defer func() {
		if err != nil {
			e.entries = before
		}
	}()
	from, end := e.Prefix, clientv3.GetPrefixRangeEnd(e.Prefix)
	for range upstream.MaxEndpoints/etcdPage + 2 {
		opts := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(etcdPage), clientv3.WithSort(clientv3.SortByKey, clientv3.SortAscend)}
		if revision != 0 {
			opts = append(opts, clientv3.WithRev(revision))
		}
		page, err := e.get(ctx, client, from, opts...)
		if err != nil {
			return 0, 0, err
		}
		if revision == 0 {
			cluster, revision = page.Header.ClusterId, page.Header.Revision
		}
		for _, kv := range page.Kvs {
			if old, ok := before[string(kv.Key)]; ok && len(e.entries) < upstream.MaxEndpoints {
				e.entries[string(kv.Key)] = old
			}
			e.set(kv)
		}
		if !page.More || len(page.Kvs) == 0 || e.over {
			return cluster, revision, nil
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
	return cluster, revision, nil
}

func (e *Etcd) get(ctx context.Context, client *clientv3.Client, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, e.Timeout)
	defer cancel()
	return client.Get(ctx, key, opts...)
}

// set takes one key's value. A wrong one leaves what the key had.
func (e *Etcd) set(kv *mvccpb.KeyValue) {
	key := string(kv.Key)
	s, err := parseValue(kv.Value)
	if err != nil {
		if len(e.wrong) < maxWrong {
			e.wrong[key] = err
		}
		return
	}
	delete(e.wrong, key)
	if _, ok := e.entries[key]; !ok && len(e.entries) == upstream.MaxEndpoints {
		e.over = true
		return
	}
	e.entries[key] = s
}

var (
	errMissed   = errors.New("keys that were left out may have room now")
	errReplaced = errors.New("the store was replaced by another")
)

// watch follows changes after revision.
func (e *Etcd) watch(ctx context.Context, client *clientv3.Client, cluster uint64, revision int64) error {
	wctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	events := client.Watch(wctx, e.Prefix, clientv3.WithPrefix(), clientv3.WithRev(revision+1), clientv3.WithFragment())
	for {
		tick, stop := e.Clock.Timer(e.Check)
		select {
		case r, ok := <-events:
			stop()
			if err := r.Err(); err != nil {
				return err
			}
			if !ok {
				return errors.New("the watch ended")
			}
			revision = max(revision, r.Header.Revision)
			if e.take(r.Events) && e.over {
				return errMissed
			}
			e.put(e.specs(), false, e.fault())
		case <-tick:
			r, err := e.get(ctx, client, e.Prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
			if err != nil {
				return err
			}
			if r.Header.ClusterId != cluster || r.Header.Revision < revision {
				return errReplaced // the watch would wait for a revision long to come
			}
			e.put(e.specs(), false, e.fault())
		case <-ctx.Done():
			stop()
			return nil
		}
	}
}

// take applies changes, and says whether keys went.
func (e *Etcd) take(events []*clientv3.Event) (gone bool) {
	for _, ev := range events {
		if ev.Type == clientv3.EventTypeDelete {
			delete(e.entries, string(ev.Kv.Key))
			delete(e.wrong, string(ev.Kv.Key))
			gone = true
		} else {
			e.set(ev.Kv)
		}
	}
	return gone
}

// specs is by key, so that of two keys with one address the first counts.
func (e *Etcd) specs() []upstream.Spec {
	out := make([]upstream.Spec, 0, len(e.entries))
	for _, k := range slices.Sorted(maps.Keys(e.entries)) {
		out = append(out, e.entries[k])
	}
	return out
}

// fault is what is wrong with keys.
func (e *Etcd) fault() error {
	var f faults
	if e.over {
		f.add(fmt.Errorf("more than %d keys: those behind are left out", upstream.MaxEndpoints))
	}
	for _, k := range slices.Sorted(maps.Keys(e.wrong)) {
		f.add(fmt.Errorf("key %s: %w", strconv.Quote(k), e.wrong[k]))
	}
	if f.n > 0 {
		return f.err()
	}
	seen := map[string]string{}
	for _, k := range slices.Sorted(maps.Keys(e.entries)) {
		a := e.entries[k].Address
		if first, ok := seen[a]; ok {
			f.add(fmt.Errorf("key %s: address %s is also of key %s", strconv.Quote(k), a, strconv.Quote(first)))
		} else {
			seen[a] = k
		}
	}
	return f.err()
}
