package npro

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// DefaultCompressionThreshold is the smallest body worth compressing, in bytes.
const DefaultCompressionThreshold = 512

// MaxRaw is the largest raw size of one compressed frame's body. Longer messages
// are cut into frames first, so that no receiver needs more memory than this to
// take one frame.
const MaxRaw = 256 << 10

// ErrCompression is matched by every error of decompression: close the connection.
var ErrCompression = errors.New("malformed compressed body")

const rawSize = 4 // bytes of raw size before the block

// Compressor compresses bodies for one connection. Not for concurrent use.
type Compressor struct {
	algo uint8
	lz4  lz4.Compressor
	zstd *zstd.Encoder
}

// NewCompressor makes a compressor. level is zstd's, 1 to 22; 0 is 1, which costs
// least; LZ4 has none.
func NewCompressor(algo uint8, level int) (*Compressor, error) {
	c := &Compressor{algo: algo}
	switch algo {
	case CompressionLZ4:
	case CompressionZstd:
		var err error
		c.zstd, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(max(level, 1))),
			zstd.WithWindowSize(MaxRaw), zstd.WithEncoderCRC(false))
		if err != nil {
			return nil, fmt.Errorf("set up zstd: %w", err)
		}
	default:
		return nil, fmt.Errorf("compression %d: unsupported", algo)
	}
	return c, nil
}

// Flag returns the header flag of what Append makes.
func (c *Compressor) Flag() uint8 {
	if c.algo == CompressionZstd {
		return FlagZstd
	}
	return FlagLZ4
}

// Append adds the compressed form of body to dst. It returns false, and dst as it
// was, where body does not look compressible, is longer than MaxRaw, or did not
// get shorter by a sixteenth.
func (c *Compressor) Append(dst, body []byte) ([]byte, bool) {
	if len(body) > MaxRaw || !looksCompressible(body) {
		return dst, false
	}
	at := len(dst)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(body)))
	limit := len(body) - len(body)/16 - rawSize
	if limit < 1 {
		return dst[:at], false
	}
	if c.algo == CompressionZstd {
		dst = c.zstd.EncodeAll(body, dst)
	} else {
		block := len(dst)
		dst = append(dst, make([]byte, limit)...)
		n, err := c.lz4.CompressBlock(body, dst[block:])
		if err != nil || n == 0 { // 0: does not fit
			return dst[:at], false
		}
		dst = dst[:block+n]
	}
	if len(dst)-at-rawSize > limit {
		return dst[:at], false
	}
	return dst, true
}

// Close frees the encoder.
func (c *Compressor) Close() {
	if c.zstd != nil {
		_ = c.zstd.Close() // nothing is buffered: EncodeAll only
	}
}

// looksCompressible samples 256 bytes and asks how often values repeat: in random
// or compressed data pairs coincide in 1 of 256 cases, in text in 1 of 15.
func looksCompressible(b []byte) bool {
	const samples = 256
	if len(b) < samples {
		return true
	}
	var count [256]uint16
	step := len(b) / samples
	for i := range samples {
		count[b[i*step]]++
	}
	pairs := 0
	for _, c := range count {
		pairs += int(c) * (int(c) - 1)
	}
	return pairs*256 > samples*(samples-1)*3/2
}

// Decompressor reads compressed bodies of one connection. Not for concurrent use.
type Decompressor struct{ zstd *zstd.Decoder }

// Append adds the raw form of body to dst. flag is the header's FlagLZ4 or
// FlagZstd; limit is the largest raw size taken. The size is checked before
// memory is taken, and the result has exactly that size or is an error.
func (d *Decompressor) Append(dst []byte, flag uint8, body []byte, limit int) ([]byte, error) {
	if len(body) < rawSize {
		return dst, fmt.Errorf("%w: %d bytes", ErrCompression, len(body))
	}
	size := binary.BigEndian.Uint32(body)
	block := body[rawSize:]
	if size == 0 || uint64(size) > uint64(max(limit, 0)) {
		return dst, fmt.Errorf("%w: raw size %d, limit %d", ErrCompression, size, limit)
	}
	at, n := len(dst), int(size)
	dst = append(dst, make([]byte, n)...)
	switch flag & (FlagLZ4 | FlagZstd) {
	case FlagLZ4:
		got, err := lz4.UncompressBlock(block, dst[at:])
		if err != nil || got != n {
			return dst[:at], fmt.Errorf("%w: lz4 block", ErrCompression)
		}
	case FlagZstd:
		if err := d.unzstd(dst[at:at:at+n], block, n); err != nil {
			return dst[:at], err
		}
	default:
		return dst[:at], fmt.Errorf("%w: no algorithm", ErrCompression)
	}
	return dst, nil
}

// unzstd fills out, whose capacity is n, with exactly n bytes.
func (d *Decompressor) unzstd(out, block []byte, n int) error {
	if !oneZstdFrame(block) {
		return fmt.Errorf("%w: not exactly one zstd frame", ErrCompression)
	}
	if d.zstd == nil {
		var err error
		d.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true),
			zstd.WithDecoderMaxWindow(8<<20), zstd.WithDecoderMaxMemory(MaxPayload))
		if err != nil {
			return fmt.Errorf("set up zstd: %w", err)
		}
	}
	raw, err := d.zstd.DecodeAll(block, out)
	if err != nil || len(raw) != n {
		return fmt.Errorf("%w: zstd frame", ErrCompression)
	}
	return nil
}

// oneZstdFrame walks a frame's block headers (RFC 8878 §3.1.1.2). Decoders take
// several frames in a row and skippable ones: bytes that mean nothing to us.
func oneZstdFrame(b []byte) bool {
	var h zstd.Header
	if err := h.Decode(b); err != nil || h.Skippable || h.DictionaryID != 0 {
		return false
	}
	at := h.HeaderSize
	for last := false; !last; {
		if at+3 > len(b) {
			return false
		}
		v := int(b[at]) | int(b[at+1])<<8 | int(b[at+2])<<16
		last = v&1 != 0
		size := v >> 3
		if v>>1&3 == 1 { // RLE: one byte stands for the block
			size = 1
		}
		at += 3 + size
	}
	if h.HasCheckSum {
		at += 4
	}
	return at == len(b)
}

// Close frees the decoder.
func (d *Decompressor) Close() {
	if d.zstd != nil {
		d.zstd.Close()
		d.zstd = nil
	}
}
