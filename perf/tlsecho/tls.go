package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
)

var errEcho = errors.New("an echo differs from what was sent")

type tlsChannel struct {
	c       *tls.Conn
	r       *bufio.Reader
	w       flusher
	out, in []byte
}

func dialTLS(ctx context.Context, o *options) (channel, error) {
	// The certificate is made by the server for this run; handshakes are not measured.
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}}
	nc, err := d.DialContext(ctx, "tcp", o.addr)
	if err != nil {
		return nil, err
	}
	c := nc.(*tls.Conn)
	t := &tlsChannel{c: c, r: bufio.NewReaderSize(c, buffered(o)), w: writer(c, o), out: make([]byte, o.size), in: make([]byte, o.size)}
	rand.Read(t.out)
	return t, nil
}

func (t *tlsChannel) send() error {
	_, err := t.w.Write(t.out)
	return err
}
func (t *tlsChannel) flush() error { return t.w.Flush() }
func (t *tlsChannel) ready() bool  { return t.r.Buffered() >= len(t.in) }
func (t *tlsChannel) close()       { t.c.Close() }

func (t *tlsChannel) receive() error {
	if _, err := io.ReadFull(t.r, t.in); err != nil {
		return err
	}
	if !bytes.Equal(t.in, t.out) {
		return errEcho
	}
	return nil
}
