package gateway

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/np-appliance/np/ctrl/client"
	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/dispatch"
	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/forward"
	"github.com/np-appliance/np/ctrl/gateway/message"
	"github.com/np-appliance/np/ctrl/handshake"
	"github.com/np-appliance/np/ctrl/npro"
	"github.com/np-appliance/np/ctrl/pool"
	"github.com/np-appliance/np/ctrl/secure"
	"github.com/np-appliance/np/ctrl/upstream"
)

// npro sends a route's requests to an upstream that speaks NPRO.
func (b *builder) npro(at string, r *config.HTTPRoute) http.Handler {
	c := b.next.clusters[r.Upstream]
	if c == nil || c.npro == nil {
		return http.NotFoundHandler() // what is wrong was said
	}
	fields := message.Fields{Tenant: r.NPRO.TenantHeader, Session: r.NPRO.SessionHeader}
	o := message.NorthOptions{Cluster: c.npro, Opcode: r.NPROOpcode, Payload: payload(r.NPRO.Payload), Fields: fields, Priority: uint8(r.NPRO.Priority),
		ContentType: r.NPRO.ContentType, MaxRequest: int(r.NPRO.MaxMessage), MaxMessage: int(r.NPRO.MaxMessage)}
	if keys := b.hashing(r.Upstream); keys != nil {
		o.Hash = forward.Hasher(keys)
	}
	switch r.NPRO.Stream {
	case "bytes":
		o.Stream = message.StreamBytes
	case "events":
		o.Stream = message.StreamEvents
	}
	north, err := message.NewNorth(o)
	b.npErrors(at+".npro", "route.npro", err)
	if r.WebSocket.Mode != "terminate" {
		return north
	}
	w := &r.WebSocket
	socket, err := message.NewSocket(message.SocketOptions{Cluster: c.npro, Opcode: r.NPROOpcode, Requests: w.Requests, Fields: fields, Priority: uint8(r.NPRO.Priority),
		Origins: w.Origins, Subprotocols: w.Subprotocols, MaxMessage: int(w.MaxMessage), Ping: w.Ping, Compress: w.Compress, Hash: o.Hash})
	b.npErrors(at+".websocket", "route.websocket", err)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if message.IsWebSocket(r) {
			socket.ServeHTTP(w, r)
			return
		}
		north.ServeHTTP(w, r)
	})
}

func (b *builder) npErrors(at, key string, err error) {
	each(err, func(err error) { b.failf(at, "%s: %w", key, err) })
}

func payload(word string) message.Payload {
	switch word {
	case "http":
		return message.PayloadHTTP
	case "grpc":
		return message.PayloadGRPC
	}
	return message.PayloadBody
}

// opcode answers an opcode of NPRO by a route's stages and its action.
func (b *builder) opcode(i int, r *config.HTTPRoute) {
	at := fmt.Sprintf("route[%d]", i)
	gen, g := b.next, b.g
	do := &action{name: r.Name, Handler: b.handler(i, r)}
	entry := Entry{Listener: "npro", meter: g.meter.Listener("npro")}
	s, err := message.NewSouth(message.SouthOptions{Opcode: r.Opcode, Payload: payload(r.NPRO.Payload), Streams: true,
		Fields: message.Fields{Tenant: r.NPRO.TenantHeader, Session: r.NPRO.SessionHeader},
		Method: r.NPRO.Method, Path: r.NPRO.Path, Host: r.NPRO.Host, ContentType: r.NPRO.ContentType, MaxAnswer: int(r.NPRO.MaxMessage),
		Begin: func(q *http.Request, peer dispatch.Peer) *http.Request {
			return q.WithContext(context.WithValue(q.Context(), peerKey{}, peer))
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			peer, _ := q.Context().Value(peerKey{}).(dispatch.Peer)
			g.run(gen, entry, w, q, do, &peer)
		}),
	})
	if err != nil {
		b.npErrors(at+".npro", "route.npro", err)
		return
	}
	if b.next.opcodes == nil {
		b.next.opcodes = map[string]dispatch.Entry{}
	}
	b.next.opcodes[r.Opcode] = s.Entry()
}

// Opcodes returns what answers the opcodes of NPRO that routes of the configuration in
// force are for. Each request is answered by the configuration in force when it came.
func (g *Gateway) Opcodes() []dispatch.Entry {
	var out []dispatch.Entry
	for opcode := range g.gen.Load().opcodes {
		out = append(out, dispatch.Entry{Opcode: opcode,
			Handle: func(ctx context.Context, q *dispatch.Request) ([]byte, error) {
				gen, slot := g.enter()
				defer gen.leave(slot)
				e, ok := gen.opcodes[opcode]
				if !ok {
					return nil, npro.CodeUnknownOpcode
				}
				return e.Handle(ctx, q)
			},
			Stream: func(ctx context.Context, q *dispatch.Request, s dispatch.Stream) error {
				gen, slot := g.enter()
				defer gen.leave(slot)
				e, ok := gen.opcodes[opcode]
				if !ok {
					return npro.CodeUnknownOpcode
				}
				return e.Stream(ctx, q, s)
			}})
	}
	return out
}

type peerKey struct{}

// knowPeer writes down who sent an NPRO request, which its handshake proved.
func knowPeer(x *exchange.Exchange, peer *dispatch.Peer) {
	x.Protocol, x.Peer, x.Client = "npro", peer.Remote, peer.Remote
	if peer.Name != "" {
		x.Identity = &exchange.Identity{Provider: "npro", Subject: peer.Name}
	}
}

// nproCluster is how an upstream's endpoints are spoken to in NPRO.
func (b *builder) nproCluster(at string, u *config.Upstream, p config.Pool, up *upstream.Upstream) *message.Cluster {
	n := &u.NPRO
	cfg := client.Config{DialContext: b.dial(u), Name: "npd", NoHybrid: !n.Hybrid, ConnectTimeout: u.Timeouts.Connect, HandshakeTimeout: u.Timeouts.Connect, ResponseTimeout: -1}
	bad := len(b.errs)
	var keys []handshake.PublicKey
	for i, text := range n.Keys {
		k, err := handshake.ParsePublicKey(text)
		if err != nil {
			b.failf(fmt.Sprintf("%s.npro.keys[%d]", at, i), "upstream.npro.keys: %w, expected one as npctl key public prints", err)
		}
		keys = append(keys, k)
	}
	cfg.Trust = func(k handshake.PublicKey) error {
		if slices.Contains(keys, k) {
			return nil
		}
		return errors.New("the endpoint's key is not one of npro.keys")
	}
	switch n.Pattern {
	case "XX":
		cfg.Pattern = handshake.PatternXX
	case "IK":
		cfg.Pattern = handshake.PatternIK
	case "NX":
		cfg.Pattern = handshake.PatternNX
	case "NNpsk0":
		cfg.Pattern = handshake.PatternNNpsk0
	}
	if len(keys) == 1 && n.Pattern != "NNpsk0" {
		cfg.Remote = &keys[0]
	}
	b.nproKeys(at, u, &cfg)
	if len(b.errs) > bad {
		return nil
	}
	c, err := message.NewCluster(message.ClusterConfig{Upstream: up, Client: cfg, Pool: nproPool(u, p), PerConnection: n.PerConnection})
	if err != nil {
		each(err, func(err error) { b.failf(at, "%s", strings.TrimPrefix(err.Error(), "upstream "+u.Name+": ")) })
		return nil
	}
	return c
}

func nproPool(u *config.Upstream, p config.Pool) pool.Config {
	c := poolConfig(u, p)
	c.ValidateAfter, c.ValidateTimeout = 0, time.Second // a look at a flag
	return c
}

// nproKeys reads the keys that the pattern needs of us.
func (b *builder) nproKeys(at string, u *config.Upstream, cfg *client.Config) {
	n := &u.NPRO
	switch n.Pattern {
	case "NNpsk0":
		text, err := secure.ReadSecret(n.PSKFile)
		var psk [handshake.KeySize]byte
		if err == nil {
			psk, err = handshake.ParsePSK(text)
		}
		if err != nil {
			b.failf(at+".npro.psk_file", "upstream.npro.psk_file: %w", err)
		}
		cfg.PSK = &psk
	case "XX", "IK":
		path, key := n.PrivateKeyFile, at+".npro.private_key_file"
		if path == "" {
			path = b.cfg.Protocol.PrivateKeyFile
		}
		text, err := secure.ReadSecret(path)
		if err == nil {
			cfg.Static, err = handshake.ParsePrivateKey(text)
		} else if b.g.dry && n.PrivateKeyFile == "" && errors.Is(err, fs.ErrNotExist) {
			err = nil // npd makes it at its first start
		}
		if err != nil {
			b.failf(key, "upstream.npro.private_key_file: %w", err)
		}
	}
}
