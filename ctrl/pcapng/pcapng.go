package pcapng

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// Interface is one interface of the capture, numbered by its position.
type Interface struct {
	Name   string
	Filter string // as given by the user, "" none
	Snap   int    // bytes kept of each packet, 0 all
}

// Packet is one captured packet. Data is not kept.
type Packet struct {
	At        time.Time
	Interface int // position in NewWriter's list
	Inbound   bool
	Orig      int // bytes on the wire, at least len(Data)
	Data      []byte
	Comment   string // "" none
}

// Writer writes one capture.
type Writer struct {
	ng  *pcapgo.NgWriter
	ifs int
}

// NewWriter writes the section header and the interfaces. An empty list is an error.
func NewWriter(dst io.Writer, ifs []Interface) (*Writer, error) {
	if len(ifs) == 0 {
		return nil, errors.New("start pcapng: no interface")
	}
	opts := pcapgo.DefaultNgWriterOptions
	opts.SectionInfo.Application = "np"
	var ng *pcapgo.NgWriter
	for i, f := range ifs {
		in := pcapgo.DefaultNgInterface
		in.Name = f.Name
		in.Filter = f.Filter
		in.LinkType = layers.LinkTypeEthernet
		in.SnapLength = uint32(f.Snap)
		var err error
		if i == 0 {
			ng, err = pcapgo.NewNgWriterInterface(dst, in, opts)
		} else {
			_, err = ng.AddInterface(in)
		}
		if err != nil {
			return nil, fmt.Errorf("start pcapng: interface %s: %w", f.Name, err)
		}
	}
	return &Writer{ng: ng, ifs: len(ifs)}, nil
}

// Write appends one packet; it reaches the destination with Flush.
func (w *Writer) Write(p Packet) error {
	if p.Interface < 0 || p.Interface >= w.ifs {
		return fmt.Errorf("write packet: interface %d of %d", p.Interface, w.ifs)
	}
	info := gopacket.CaptureInfo{
		Timestamp:      p.At,
		CaptureLength:  len(p.Data),
		Length:         max(p.Orig, len(p.Data)),
		InterfaceIndex: p.Interface,
	}
	flags := pcapgo.NgEpbFlags{Direction: pcapgo.NgEpbFlagDirectionOutbound}
	if p.Inbound {
		flags.Direction = pcapgo.NgEpbFlagDirectionInbound
	}
	opts := pcapgo.NgPacketOptions{Flags: &flags}
	if p.Comment != "" {
		opts.Comments = []string{p.Comment}
	}
	if err := w.ng.WritePacketWithOptions(info, p.Data, opts); err != nil {
		return fmt.Errorf("write packet: %w", err)
	}
	return nil
}

// Flush hands what was written to the destination.
func (w *Writer) Flush() error { return w.ng.Flush() }
