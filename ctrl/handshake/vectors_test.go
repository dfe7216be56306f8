package handshake

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/mlkem"
	"crypto/mlkem/mlkemtest"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"
)

type hexBytes []byte

func (h *hexBytes) UnmarshalText(t []byte) (err error) {
	*h, err = hex.DecodeString(string(t))
	return err
}

// load reads a file of published vectors from $NP_VECTORS.
func load(t *testing.T, name string, into any) {
	t.Helper()
	dir := os.Getenv("NP_VECTORS")
	if dir == "" {
		t.Skip("NP_VECTORS is not set: outside vectors not checked")
	}
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatal(err)
	}
}

func TestNoiseVectors(t *testing.T) {
	var file struct {
		Vectors []struct {
			Name          string     `json:"protocol_name"`
			Prologue      hexBytes   `json:"init_prologue"`
			InitStatic    hexBytes   `json:"init_static"`
			InitEphemeral hexBytes   `json:"init_ephemeral"`
			InitRemote    hexBytes   `json:"init_remote_static"`
			RespStatic    hexBytes   `json:"resp_static"`
			RespEphemeral hexBytes   `json:"resp_ephemeral"`
			PSKs          []hexBytes `json:"init_psks"`
			Hash          hexBytes   `json:"handshake_hash"`
			Messages      []struct{ Payload, Ciphertext hexBytes }
		}
	}
	load(t, "noise_cacophony.json", &file)
	byName := map[string]noisePattern{}
	for p := PatternXX; p <= PatternNNpsk0; p++ {
		n, _ := p.noise()
		byName[n.protocolName(false)] = n
	}
	if len(file.Vectors) != len(byName) {
		t.Fatalf("%d vectors for %d patterns", len(file.Vectors), len(byName))
	}
	for _, v := range file.Vectors {
		t.Run(v.Name, func(t *testing.T) {
			pattern, ok := byName[v.Name]
			if !ok {
				t.Fatal("we do not have this pattern")
			}
			mk := func(initiator bool, static, ephemeral hexBytes) *handshakeState {
				c := &noiseConfig{pattern: pattern, initiator: initiator, prologue: v.Prologue, random: bytes.NewReader(ephemeral)}
				var err error
				if len(static) > 0 {
					if c.static, err = ecdh.X25519().NewPrivateKey(static); err != nil {
						t.Fatal(err)
					}
				}
				if initiator && len(v.InitRemote) > 0 {
					if c.remote, err = ecdh.X25519().NewPublicKey(v.InitRemote); err != nil {
						t.Fatal(err)
					}
				}
				if len(v.PSKs) > 0 {
					c.psk = (*[32]byte)(v.PSKs[0])
				}
				hs, err := newHandshakeState(c)
				if err != nil {
					t.Fatal(err)
				}
				return hs
			}
			sides := [2]*handshakeState{mk(true, v.InitStatic, v.InitEphemeral), mk(false, v.RespStatic, v.RespEphemeral)}
			n := len(pattern.messages)
			for i, m := range v.Messages[:n] {
				out, err := sides[i%2].writeMessage(nil, m.Payload)
				if err != nil || !bytes.Equal(out, m.Ciphertext) {
					t.Fatalf("message %d: %x, %v", i, out, err)
				}
				back, err := sides[(i+1)%2].readMessage(out)
				if err != nil || !bytes.Equal(back, m.Payload) {
					t.Fatalf("message %d read: %x, %v", i, back, err)
				}
			}
			for _, s := range sides {
				if !s.done() || !bytes.Equal(s.sym.h[:], v.Hash) {
					t.Fatal("handshake hash differs")
				}
			}
			// Transport messages go on alternating; each direction counts its own nonces.
			var keys [2][2]cipherState
			for i, s := range sides {
				i2r, r2i := s.sym.split()
				keys[i][0].init(i2r[:])
				keys[i][1].init(r2i[:])
			}
			for i, m := range v.Messages[n:] {
				from := (n + i) % 2
				if out := keys[from][from].encrypt(nil, nil, m.Payload); !bytes.Equal(out, m.Ciphertext) {
					t.Fatalf("transport message %d: %x", i, out)
				}
				if back, err := keys[1-from][from].decrypt(nil, m.Ciphertext); err != nil || !bytes.Equal(back, m.Payload) {
					t.Fatalf("transport message %d read: %v", i, err)
				}
			}
		})
	}
}

// The token order with HFS, as doc.go describes it.
func TestHFSTokens(t *testing.T) {
	for _, c := range []struct {
		p    Pattern
		name string
		want [][]token
	}{
		{PatternXX, "Noise_XXhfs_25519+MLKEM768_ChaChaPoly_SHA256", [][]token{{tokE, tokE1}, {tokE, tokEE, tokEKEM1, tokS, tokES}, {tokS, tokSE}}},
		{PatternIK, "Noise_IKhfs_25519+MLKEM768_ChaChaPoly_SHA256", [][]token{{tokE, tokES, tokE1, tokS, tokSS}, {tokE, tokEE, tokEKEM1, tokSE}}},
		{PatternNX, "Noise_NXhfs_25519+MLKEM768_ChaChaPoly_SHA256", [][]token{{tokE, tokE1}, {tokE, tokEE, tokEKEM1, tokS, tokES}}},
		{PatternNNpsk0, "Noise_NNhfs+psk0_25519+MLKEM768_ChaChaPoly_SHA256", [][]token{{tokPSK, tokE, tokE1}, {tokE, tokEE, tokEKEM1}}},
	} {
		d, _ := c.p.noise()
		if got := d.protocolName(true); got != c.name {
			t.Errorf("name %s", got)
		}
		got := withHFS(d.messages)
		for i := range c.want {
			if string(tokenBytes(got[i])) != string(tokenBytes(c.want[i])) {
				t.Errorf("%v message %d: %v, expected %v", c.p, i, got[i], c.want[i])
			}
		}
	}
}

func tokenBytes(ts []token) (b []byte) {
	for _, t := range ts {
		b = append(b, byte(t))
	}
	return b
}

type aeadFile struct {
	TestGroups []struct {
		IVSize, KeySize, TagSize int
		Tests                    []struct {
			TcID                       int
			Key, IV, AAD, Msg, CT, Tag hexBytes
			Result                     string
		}
	}
}

func TestWycheproofX25519(t *testing.T) {
	var file struct {
		TestGroups []struct {
			Tests []struct {
				TcID                    int
				Public, Private, Shared hexBytes
				Result                  string
			}
		}
	}
	load(t, "wycheproof_x25519_test.json", &file)
	zero, n := make([]byte, 32), 0
	for _, g := range file.TestGroups {
		for _, v := range g.Tests {
			n++
			priv, err := ecdh.X25519().NewPrivateKey(v.Private)
			if err != nil {
				t.Fatal(err)
			}
			pub, err := ecdh.X25519().NewPublicKey(v.Public)
			if err != nil {
				t.Fatal(err)
			}
			// "acceptable" covers non-canonical points, which RFC 7748 §5 takes, and
			// points of low order, which we refuse.
			hs := &handshakeState{initiator: true, e: priv, re: pub}
			hs.sym.init("x")
			err = hs.mix(tokEE)
			if low := bytes.Equal(v.Shared, zero); low != (err != nil) {
				t.Errorf("case %d: low order %v, error %v", v.TcID, low, err)
			} else if !low {
				want := symmetricState{}
				want.init("x")
				want.mixKey(v.Shared)
				if want.ck != hs.sym.ck {
					t.Errorf("case %d: wrong secret", v.TcID)
				}
			}
		}
	}
	t.Logf("%d cases", n)
}

func TestWycheproofMLKEM(t *testing.T) {
	var file struct {
		TestGroups []struct {
			Type  string
			Tests []struct {
				TcID           int
				Seed, EK, C, K hexBytes
				Result         string
			}
		}
	}
	load(t, "wycheproof_mlkem_768_test.json", &file)
	n := 0
	for _, g := range file.TestGroups {
		for _, v := range g.Tests {
			n++
			dk, err := mlkem.NewDecapsulationKey768(v.Seed)
			if err != nil {
				if v.Result == "valid" {
					t.Errorf("case %d: %v", v.TcID, err)
				}
				continue
			}
			if len(v.EK) > 0 && !bytes.Equal(dk.EncapsulationKey().Bytes(), v.EK) {
				t.Errorf("case %d: wrong encapsulation key", v.TcID)
			}
			k, err := dk.Decapsulate(v.C)
			if (err == nil && bytes.Equal(k, v.K)) != (v.Result == "valid") {
				t.Errorf("case %d (%s): %v", v.TcID, v.Result, err)
			}
		}
	}
	t.Logf("%d cases", n)
}

func TestWycheproofChaCha20Poly1305(t *testing.T) {
	var file aeadFile
	load(t, "wycheproof_chacha20_poly1305_test.json", &file)
	n := 0
	for _, g := range file.TestGroups {
		if g.IVSize != 96 || g.KeySize != 256 {
			continue // sizes Noise never uses
		}
		for _, v := range g.Tests {
			n++
			a, err := chacha20poly1305.New(v.Key)
			if err != nil {
				t.Fatal(err)
			}
			sealed := append(bytes.Clone(v.CT), v.Tag...)
			got, err := a.Open(nil, v.IV, sealed, v.AAD)
			if (err == nil) != (v.Result == "valid") || err == nil && !bytes.Equal(got, v.Msg) {
				t.Errorf("case %d (%s): %v", v.TcID, v.Result, err)
			}
			if v.Result == "valid" && !bytes.Equal(a.Seal(nil, v.IV, v.Msg, v.AAD), sealed) {
				t.Errorf("case %d: sealed differently", v.TcID)
			}
		}
	}
	t.Logf("%d cases", n)
}

func TestWycheproofHKDF(t *testing.T) {
	var file struct {
		TestGroups []struct {
			Tests []struct {
				TcID                 int
				IKM, Salt, Info, OKM hexBytes
				Size                 int
				Result               string
			}
		}
	}
	load(t, "wycheproof_hkdf_sha256_test.json", &file)
	n := 0
	for _, g := range file.TestGroups {
		for _, v := range g.Tests {
			n++
			out, err := hkdf.Key(sha256.New, v.IKM, v.Salt, string(v.Info), v.Size)
			if (err == nil && bytes.Equal(out, v.OKM)) != (v.Result == "valid") {
				t.Errorf("case %d (%s): %v", v.TcID, v.Result, err)
			}
		}
	}
	t.Logf("%d cases", n)
}

// A hybrid run with fixed randomness on the sending side of the KEM, to hold
// mixKey(shared secret) to what crypto/mlkem computes by another route.
func TestHybridSecretEntersKeys(t *testing.T) {
	seed := bytes.Repeat([]byte{7}, mlkem.SeedSize)
	dk, err := mlkem.NewDecapsulationKey768(seed)
	if err != nil {
		t.Fatal(err)
	}
	shared, ct, err := mlkemtest.Encapsulate768(dk.EncapsulationKey(), bytes.Repeat([]byte{9}, 32))
	if err != nil {
		t.Fatal(err)
	}
	hs := &handshakeState{e1: dk}
	hs.sym.init("x")
	hs.sym.mixKey([]byte("k"))
	want := hs.sym
	sealed := want.encryptAndHash(nil, ct)
	want.mixKey(shared)
	if err := hs.readEKEM1(sealed); err != nil || hs.sym.ck != want.ck {
		t.Fatalf("chaining keys differ: %v", err)
	}
}
