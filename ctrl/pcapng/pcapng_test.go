package pcapng

import (
	"bytes"
	"testing"
	"time"

	"github.com/gopacket/gopacket/pcapgo"
)

func TestRoundTrip(t *testing.T) {
	var b bytes.Buffer
	w, err := NewWriter(&b, []Interface{{Name: "np0", Filter: "tcp"}, {Name: "np1", Snap: 96}})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1_800_000_000, 123_456_789)
	in := []Packet{
		{At: at, Interface: 0, Inbound: true, Orig: 60, Data: bytes.Repeat([]byte{1}, 60)},
		{At: at.Add(time.Nanosecond), Interface: 1, Orig: 1514, Data: bytes.Repeat([]byte{2}, 95), Comment: "dropped: tcp_bad_checksum"},
	}
	for _, p := range in {
		if err := w.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	opts := pcapgo.DefaultNgReaderOptions
	r, err := pcapgo.NewNgReader(bytes.NewReader(b.Bytes()), opts)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range in {
		data, ci, got, err := r.ReadPacketDataWithOptions()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(data, want.Data) || ci.Length != want.Orig || ci.InterfaceIndex != want.Interface || !ci.Timestamp.Equal(want.At) {
			t.Errorf("packet %d: got %v, %d bytes", i, ci, len(data))
		}
		wantDir := pcapgo.NgEpbFlagDirectionOutbound
		if want.Inbound {
			wantDir = pcapgo.NgEpbFlagDirectionInbound
		}
		if got.Flags == nil || got.Flags.Direction != wantDir {
			t.Errorf("packet %d: direction %v", i, got.Flags)
		}
		comment := ""
		if len(got.Comments) > 0 {
			comment = got.Comments[0]
		}
		if comment != want.Comment {
			t.Errorf("packet %d: comment %q, want %q", i, comment, want.Comment)
		}
	}
	iface, err := r.Interface(1)
	if err != nil || iface.Name != "np1" || iface.SnapLength != 96 {
		t.Errorf("interface 1: %+v, %v", iface, err)
	}
}

func TestBadInput(t *testing.T) {
	if _, err := NewWriter(&bytes.Buffer{}, nil); err == nil {
		t.Error("no interface was accepted")
	}
	w, err := NewWriter(&bytes.Buffer{}, []Interface{{Name: "np0"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write(Packet{Interface: 1}); err == nil {
		t.Error("an unknown interface was accepted")
	}
}
