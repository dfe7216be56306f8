//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/client"
	"github.com/np-appliance/np/ctrl/handshake"
	"github.com/np-appliance/np/ctrl/npro"
)

// connect makes an SDK client in the client's namespace.
func (w *world) connect(cfg client.Config) (*client.Client, error) {
	if cfg.DialContext == nil {
		cfg.DialContext = func(_ context.Context, network, addr string) (net.Conn, error) { return w.dial(network, addr) }
	}
	if cfg.Address == "" {
		cfg.Address = addr4(7700)
	}
	if cfg.Static.IsZero() {
		key, err := handshake.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		cfg.Static = key
	}
	if cfg.Remote == nil && cfg.Trust == nil && cfg.PSK == nil {
		cfg.Trust = func(handshake.PublicKey) error { return nil }
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return client.Dial(ctx, cfg)
}

func (w *world) mustConnect(cfg client.Config) *client.Client {
	w.t.Helper()
	c, err := w.connect(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = c.Close(ctx)
	})
	return c
}

// TestPatterns speaks every handshake pattern, hybrid and not, with both AEADs, over IPv4 and IPv6.
func TestPatterns(t *testing.T) {
	t.Parallel()
	psk := [32]byte{1, 2, 3}
	for _, hybrid := range []bool{true, false} {
		t.Run(fmt.Sprintf("hybrid=%v", hybrid), func(t *testing.T) {
			w := newWorld(t, options{noNpd: true})
			w.write("psk", base64.StdEncoding.EncodeToString(psk[:])+"\n")
			w.env = append(w.env, fmt.Sprintf("NP_PROTOCOL_HYBRID=%v", hybrid), "NP_PROTOCOL_PATTERNS=XX,IK,NX,NNpsk0", "NP_PROTOCOL_PSK_FILE="+w.path("psk"))
			w.start()
			w.ready()
			key, err := handshake.ParsePublicKey(w.status().PublicKey)
			if err != nil {
				t.Fatal(err)
			}
			for _, cfg := range []client.Config{
				{Pattern: handshake.PatternXX}, {Pattern: handshake.PatternXX, Remote: &key},
				{Pattern: handshake.PatternIK, Remote: &key}, {Pattern: handshake.PatternNX, Remote: &key}, {Pattern: handshake.PatternNNpsk0, PSK: &psk},
			} {
				for _, aead := range []uint8{npro.AEADAES256GCM, npro.AEADXChaCha20Poly1305} {
					for _, addr := range []string{addr4(7700), addr6(7700)} {
						c := cfg
						c.NoHybrid, c.AEADs, c.Address = !hybrid, []uint8{aead}, addr
						name := fmt.Sprintf("%v aead %d %s", c.Pattern, aead, addr)
						cl, err := w.connect(c)
						if err != nil {
							t.Errorf("%s: %v", name, err)
							continue
						}
						for _, n := range []int{0, 1, 64, 1000, 5000, 300_000} {
							msg := bytes.Repeat([]byte{byte(n)}, n)
							got, err := cl.Request(context.Background(), "ECHO", msg)
							if err != nil || !bytes.Equal(got, msg) {
								t.Errorf("%s: ECHO of %d bytes: %d bytes, %v", name, n, len(got), err)
							}
						}
						_ = cl.Close(context.Background())
					}
				}
			}
			wrong := handshake.PublicKey{9}
			if _, err := w.connect(client.Config{Pattern: handshake.PatternIK, Remote: &wrong, NoHybrid: !hybrid}); err == nil {
				t.Error("a server with another key was accepted")
			}
		})
	}
}

func TestHandlers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	free := w.status().BuffersFree
	c := w.mustConnect(client.Config{Name: "e2e"})
	ctx := context.Background()
	info, err := c.Request(ctx, "INFO", nil)
	if err != nil || !json.Valid(info) {
		t.Errorf("INFO: %q, %v", info, err)
	}
	if _, err := c.Request(ctx, "NO-SUCH-THING", nil); !errors.Is(err, npro.CodeUnknownOpcode) {
		t.Errorf("unknown opcode: %v", err)
	}
	if err := c.Send(ctx, &client.Request{Opcode: "DISCARD", Payload: make([]byte, 100_000)}); err != nil {
		t.Errorf("one-way message: %v", err)
	}
	big := make([]byte, 5<<20)
	_, _ = rand.Read(big)
	if got, err := c.Request(ctx, "ECHO", big); err != nil || !bytes.Equal(got, big) {
		t.Errorf("ECHO of 5 MiB: %d bytes, %v", len(got), err)
	}
	conns := w.must(w.in("s", w.bin+"/npctl", "-s", w.path("np.sock"), "conn", "list", "-o", "wide"))
	if !strings.Contains(conns, "npro") || !strings.Contains(conns, "established") || !strings.Contains(conns, "XX") {
		t.Errorf("npctl conn list:\n%s", conns)
	}
	_ = c.Close(ctx)
	w.restful(free)
}

// Many requests in flight on several connections, of all sizes.
func TestManyInFlight(t *testing.T) {
	w := newWorld(t, options{})
	free := w.status().BuffersFree
	c := w.mustConnect(client.Config{Connections: 4})
	var wg sync.WaitGroup
	for g := range 64 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 50 {
				msg := bytes.Repeat([]byte{byte(g), byte(i)}, 1+(g*i*37)%20_000)
				op := []string{"ECHO", "DISCARD"}[i%2]
				got, err := c.Request(context.Background(), op, msg)
				if err != nil || op == "ECHO" && !bytes.Equal(got, msg) {
					t.Errorf("%s of %d bytes: %d back, %v", op, len(msg), len(got), err)
					return
				}
			}
		}()
	}
	wg.Wait()
	_ = c.Close(context.Background())
	w.restful(free)
}

// Only listed peers connect, and each calls only what it may.
func TestPeers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{noNpd: true})
	key, err := handshake.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(w.path("np.toml"))
	if err != nil {
		t.Fatal(err)
	}
	w.write("np.toml", strings.Replace(string(b), "allow_any_peer = true", "allow_any_peer = false", 1)+
		fmt.Sprintf("\n[[peer]]\nname = \"reports\"\npublic_key = %q\nallow = [\"INFO\"]\n", key.Public()))
	w.start()
	w.ready()
	c := w.mustConnect(client.Config{Static: key})
	if _, err := c.Request(context.Background(), "INFO", nil); err != nil {
		t.Errorf("INFO: %v", err)
	}
	if _, err := c.Request(context.Background(), "ECHO", []byte("x")); !errors.Is(err, npro.CodeDenied) {
		t.Errorf("ECHO, which it may not: %v", err)
	}
	// In XX the client has finished when the server sees its key, so the refusal comes with the first request.
	if c, err := w.connect(client.Config{NoReconnect: true}); err == nil {
		if _, err := c.Request(context.Background(), "INFO", nil); err == nil {
			t.Error("an unlisted peer was served")
		}
		_ = c.Close(context.Background())
	}
}

func TestLoadGenerator(t *testing.T) {
	w := newWorld(t, options{})
	out := w.must(w.in("c", w.bin+"/nppktgen", "npro", "--addr", addr4(7700), "--conns", "8", "--depth", "8", "--size", "64", "--duration", "2s", "--output", "json"))
	var r map[string]any
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// A thousand NPRO connections, each tenth killed half-way through a message, leave no session, stream or buffer.
func TestThousandSessions(t *testing.T) {
	const conns = 1000
	w := newWorld(t, options{env: []string{"NP_SERVER_MAX_CONNECTIONS=2000"}})
	free := w.status().BuffersFree
	var wg sync.WaitGroup
	gate := make(chan struct{}, 64)
	for i := range conns {
		gate <- struct{}{}
		wg.Go(func() {
			defer func() { <-gate }()
			var under net.Conn
			c, err := w.connect(client.Config{NoReconnect: true, DialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
				var err error
				under, err = w.dial(network, addr)
				return under, err
			}})
			if err != nil {
				t.Errorf("connection %d: %v", i, err)
				return
			}
			defer c.Close(context.Background())
			msg := bytes.Repeat([]byte{byte(i)}, 3000)
			for range 3 {
				if got, err := c.Request(context.Background(), "ECHO", msg); err != nil || !bytes.Equal(got, msg) {
					t.Errorf("connection %d: %v", i, err)
					return
				}
			}
			if i%10 != 0 {
				return
			}
			big := make(chan error, 1)
			go func() {
				_, err := c.Request(context.Background(), "ECHO", make([]byte, 2<<20))
				big <- err
			}()
			time.Sleep(time.Millisecond)
			_ = under.(*net.TCPConn).SetLinger(0)
			_ = under.Close()
			<-big
		})
	}
	wg.Wait()
	w.restful(free)
}
