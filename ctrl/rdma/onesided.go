package rdma

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/np-appliance/np/dataplane"
)

// Remote names memory of a peer: what RegisterRegion's Remote says there, sent over the
// connection's stream. Whoever has it may do with the memory what its access allows.
type Remote struct {
	Addr  uint64
	Key   uint32
	Bytes uint32
}

// RemoteBytes is the length of a Remote on the wire.
const RemoteBytes = 16

// AppendBinary implements [encoding.BinaryAppender]: address, key, length, big-endian.
func (m Remote) AppendBinary(b []byte) ([]byte, error) {
	b = binary.BigEndian.AppendUint64(b, m.Addr)
	b = binary.BigEndian.AppendUint32(b, m.Key)
	return binary.BigEndian.AppendUint32(b, m.Bytes), nil
}

// MarshalBinary implements [encoding.BinaryMarshaler].
func (m Remote) MarshalBinary() ([]byte, error) { return m.AppendBinary(nil) }

// UnmarshalBinary implements [encoding.BinaryUnmarshaler]. What a peer says is checked
// for form; whether it is true its device checks.
func (m *Remote) UnmarshalBinary(b []byte) error {
	if len(b) != RemoteBytes {
		return fmt.Errorf("remote memory: %w: %d bytes, expected %d", dataplane.CodeProtocol, len(b), RemoteBytes)
	}
	r := Remote{Addr: binary.BigEndian.Uint64(b), Key: binary.BigEndian.Uint32(b[8:]), Bytes: binary.BigEndian.Uint32(b[12:])}
	if r.Addr > math.MaxUint64-uint64(r.Bytes) {
		return fmt.Errorf("remote memory: %w: its end wraps", dataplane.CodeProtocol)
	}
	*m = r
	return nil
}

// Region is memory registered for one-sided use with a connection.
type Region struct {
	dataplane.RDMARegion
	m *Manager
}

// Remote is what the peer needs to name it.
func (g *Region) Remote() Remote {
	addr, key := g.RDMARegion.Remote()
	return Remote{Addr: addr, Key: key, Bytes: uint32(g.Len())} // at most a GiB
}

// RegisterRegion takes memory and registers it for the device and core of a connection.
// access is what its peers may do; without any it is for our own Read and Write.
// It outlives the connection: Close it.
func (m *Manager) RegisterRegion(conn dataplane.Handle, bytes int, access dataplane.RDMAAccess) (*Region, error) {
	id, err := m.rdma.Find(conn)
	if err != nil {
		return nil, err
	}
	r, err := m.rdma.Region(id, bytes, access)
	if err != nil {
		return nil, err
	}
	return &Region{RDMARegion: r, m: m}, nil
}

// Read copies bytes of the peer's memory, from its offset on, into local memory from
// offset on, and waits until they are there. What the peer did not allow ends the connection.
func (m *Manager) Read(ctx context.Context, conn dataplane.Handle, local *Region, offset int, remote Remote, from, bytes int) error {
	return m.transfer(ctx, conn, local, offset, remote, from, bytes, true)
}

// Write copies local memory into the peer's. When it returns the peer's device has the
// bytes; that they are there the peer has to be told over the stream.
func (m *Manager) Write(ctx context.Context, conn dataplane.Handle, local *Region, offset int, remote Remote, to, bytes int) error {
	return m.transfer(ctx, conn, local, offset, remote, to, bytes, false)
}

func (m *Manager) transfer(ctx context.Context, conn dataplane.Handle, local *Region, offset int, remote Remote, at, bytes int, read bool) error {
	if local == nil || local.m != m || at < 0 || bytes <= 0 || uint64(at)+uint64(bytes) > uint64(remote.Bytes) {
		return fmt.Errorf("RDMA transfer of %d bytes: %w", bytes, dataplane.CodeInvalid)
	}
	id, err := m.rdma.Find(conn)
	if err != nil {
		return err
	}
	return m.rdma.Transfer(ctx, &dataplane.RDMATransfer{ID: id, Region: local.RDMARegion, Offset: offset, Bytes: bytes,
		Addr: remote.Addr + uint64(at), Key: remote.Key, Read: read})
}
