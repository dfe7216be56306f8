package session

import (
	"errors"
	"maps"

	"github.com/np-appliance/np/ctrl/handshake"
)

// Rights are what one kind of peer may call. Immutable.
type Rights struct {
	Name    string // of the [[peer]] entry
	all     bool
	opcodes map[string]bool
}

// NewRights makes rights from a list of opcodes; "*" is all.
func NewRights(name string, opcodes []string) *Rights {
	r := &Rights{Name: name, opcodes: map[string]bool{}}
	for _, op := range opcodes {
		r.all = r.all || op == "*"
		r.opcodes[op] = true
	}
	return r
}

// May says whether an opcode may be called.
func (r *Rights) May(opcode string) bool { return r.all || r.opcodes[opcode] }

func (r *Rights) may(opcode []byte) bool { return r.all || r.opcodes[string(opcode)] }

func (r *Rights) equal(o *Rights) bool {
	return r != nil && o != nil && r.Name == o.Name && r.all == o.all && maps.Equal(r.opcodes, o.opcodes)
}

// Policy says who may connect and what each may call. Immutable.
type Policy struct {
	Peers map[handshake.PublicKey]*Rights
	// Any is what peers may call that Peers does not name, and those without a
	// key (NX); nil: they may not connect.
	Any *Rights
	// PSK is what whoever knows the pre-shared key may call (NNpsk0).
	PSK *Rights
}

var errUntrusted = errors.New("no [[peer]] has this key and allow_any_peer is off")

// trust is the handshake's question about a proven key.
func (p *Policy) trust(key handshake.PublicKey) error {
	if p.Peers[key] != nil || p.Any != nil {
		return nil
	}
	return errUntrusted
}

// rights of a peer after its handshake; nil: it may not stay.
func (p *Policy) rights(pattern handshake.Pattern, key handshake.PublicKey, has bool) *Rights {
	switch {
	case has && p.Peers[key] != nil:
		return p.Peers[key]
	case pattern == handshake.PatternNNpsk0:
		return p.PSK
	}
	return p.Any
}
