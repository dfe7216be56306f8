package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/np-appliance/np/ctrl/handshake"
	"github.com/np-appliance/np/ctrl/npro"
)

// DefaultPort is where npd listens unless told otherwise.
const DefaultPort = 7700

// Config says whom to connect to and how. Zero values mean the defaults named;
// only Address and what the pattern needs must be set.
type Config struct {
	Address string // host:port, or unix:PATH
	// DialContext makes the transport; net.Dialer's by default. network is "tcp", or "unix"
	// with the path as address.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)

	Pattern  handshake.Pattern // XX
	Static   handshake.PrivateKey
	Remote   *handshake.PublicKey
	PSK      *[handshake.KeySize]byte
	Trust    func(handshake.PublicKey) error // XX without Remote
	NoHybrid bool                            // leave ML-KEM-768 out; the server must do the same
	Name     string                          // shown to the server's operator

	AEADs                []uint8 // best first; npro.PreferredAEADs
	Compressions         []uint8 // best first; none, because compressing secrets beside attacker-chosen text leaks them
	CompressionThreshold int     // smallest body compressed; 512
	CompressionLevel     int     // zstd's; 1

	Connections int // 1

	ConnectTimeout   time.Duration // transport; 5 s
	HandshakeTimeout time.Duration // 5 s
	ResponseTimeout  time.Duration // requests whose context has no deadline; 30 s; negative: none
	Heartbeat        time.Duration // 15 s; negative: no wish (the server's applies)

	NoReconnect          bool
	MaxReconnectAttempts int           // in a row; 3; negative: without end
	ReconnectDelay       time.Duration // 1 s
	MaxReconnectDelay    time.Duration // 30 s

	MaxMessage   int    // of a reassembled message, in bytes; 16 MiB
	MaxFrame     uint32 // largest frame taken; 1 MiB
	StreamWindow uint32 // 256 KiB
	ConnWindow   uint32 // 4 MiB

	RekeyRecords  uint64        // records sent under one key; 2^24, which is also the most
	RekeyInterval time.Duration // 1 h, which is also the most

	// OnMessage takes one-way messages of the server. It runs on the connection's
	// reader and must not block; payload is valid until it returns.
	OnMessage func(opcode string, payload []byte)
	// OnState is told of connections made (err nil) and ended. It must not block.
	OnState func(connected bool, err error)
}

// DefaultMaxFrame is the largest frame taken unless Config.MaxFrame says otherwise.
const DefaultMaxFrame = 1 << 20

func defaults[T int | uint32 | uint64 | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

func (c *Config) normalize() error {
	defaults(&c.Connections, 1)
	defaults(&c.CompressionThreshold, npro.DefaultCompressionThreshold)
	defaults(&c.ConnectTimeout, 5*time.Second)
	defaults(&c.HandshakeTimeout, 5*time.Second)
	defaults(&c.ResponseTimeout, 30*time.Second)
	defaults(&c.Heartbeat, 15*time.Second)
	defaults(&c.MaxReconnectAttempts, 3)
	defaults(&c.ReconnectDelay, time.Second)
	defaults(&c.MaxReconnectDelay, 30*time.Second)
	defaults(&c.MaxMessage, npro.MaxPayload)
	defaults(&c.MaxFrame, DefaultMaxFrame)
	defaults(&c.StreamWindow, handshake.DefaultStreamWindow)
	defaults(&c.ConnWindow, handshake.DefaultConnWindow)
	defaults(&c.RekeyRecords, npro.RekeyRecords)
	defaults(&c.RekeyInterval, time.Hour)
	c.RekeyRecords = min(c.RekeyRecords, npro.RekeyRecords)
	c.RekeyInterval = min(c.RekeyInterval, time.Hour)
	c.Heartbeat = max(c.Heartbeat, 0)
	if c.Pattern == 0 {
		c.Pattern = handshake.PatternXX
	}
	if c.DialContext == nil {
		c.DialContext = (&net.Dialer{}).DialContext
	}
	switch {
	case c.Address == "":
		return errors.New("client config: no address")
	case c.Connections < 1 || c.Connections > 1<<16:
		return fmt.Errorf("client config: %d connections", c.Connections)
	case c.ConnectTimeout < 0 || c.HandshakeTimeout < 0 || c.ReconnectDelay < 0 || c.MaxReconnectDelay < 0 || c.RekeyInterval < 0:
		return errors.New("client config: negative duration")
	case c.MaxMessage < 1 || c.CompressionThreshold < 0:
		return errors.New("client config: negative size")
	}
	// Everything a handshake would refuse is refused now and not at the first reconnect.
	_, err := handshake.NewInitiator(c.handshake())
	return err
}

// where is what to dial.
func (c *Config) where() (network, address string) {
	if path, ok := strings.CutPrefix(c.Address, "unix:"); ok {
		return "unix", path
	}
	return "tcp", c.Address
}

func (c *Config) handshake() *handshake.Config {
	return &handshake.Config{
		Static:   c.Static,
		Patterns: []handshake.Pattern{c.Pattern},
		Hybrid:   !c.NoHybrid,
		PSK:      c.PSK,
		Remote:   c.Remote,
		Trust:    c.Trust,
		Random:   rand.Reader,
		Params: handshake.Params{
			AEADs:        c.AEADs,
			Compressions: c.Compressions,
			MaxFrame:     c.MaxFrame,
			StreamWindow: c.StreamWindow,
			ConnWindow:   c.ConnWindow,
			Heartbeat:    c.Heartbeat,
			Name:         c.Name,
		},
	}
}
