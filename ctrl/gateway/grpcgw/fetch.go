package grpcgw

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

// Bounds of what a backend's reflection may bring.
const (
	maxReflectedFiles    = 4096
	maxReflectedServices = 1024
	maxReflectedMessage  = 16 << 20
)

// errNoReflection: the backend does not serve this version of it.
var errNoReflection = errors.New("the backend serves no reflection")

// Fetch asks a backend's reflection service for the descriptors of some services; none
// named: of all that it lists. grpc.reflection.v1 is tried first, then v1alpha, whose
// messages are the same. Each question is a call of its own, so that any client that
// sends requests will do.
func Fetch(ctx context.Context, do Doer, services []string) (*Schema, error) {
	var err error
	for _, version := range [...]string{"v1", "v1alpha"} {
		f := &fetcher{do: do, path: "/grpc.reflection." + version + ".ServerReflection/ServerReflectionInfo", files: map[string]*descriptorpb.FileDescriptorProto{}}
		var set *descriptorpb.FileDescriptorSet
		if set, err = f.fetch(ctx, services); err == nil {
			return NewSchema(set)
		}
		if !errors.Is(err, errNoReflection) {
			return nil, err
		}
	}
	return nil, err
}

type fetcher struct {
	do    Doer
	path  string
	files map[string]*descriptorpb.FileDescriptorProto
	size  int
}

func (f *fetcher) fetch(ctx context.Context, services []string) (*descriptorpb.FileDescriptorSet, error) {
	names := services
	if len(names) == 0 {
		r, err := f.ask(ctx, &reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}})
		if err != nil {
			return nil, err
		}
		list := r.GetListServicesResponse().GetService()
		if len(list) > maxReflectedServices {
			return nil, fmt.Errorf("reflection lists %d services, at most %d", len(list), maxReflectedServices)
		}
		for _, s := range list {
			if !strings.HasPrefix(s.GetName(), "grpc.reflection.") {
				names = append(names, s.GetName())
			}
		}
	}
	for _, name := range names {
		r, err := f.ask(ctx, &reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: name}})
		if err == nil {
			err = f.add(r)
		}
		if err != nil {
			return nil, fmt.Errorf("service %s: %w", name, err)
		}
	}
	if err := f.imports(ctx); err != nil {
		return nil, err
	}
	set := &descriptorpb.FileDescriptorSet{}
	for _, file := range f.files {
		set.File = append(set.File, file)
	}
	return set, nil
}

// imports asks for the files that others import until none is missing.
func (f *fetcher) imports(ctx context.Context) error {
	for range maxReflectedFiles {
		missing := f.missing()
		if missing == "" {
			return nil
		}
		r, err := f.ask(ctx, &reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_FileByFilename{FileByFilename: missing}})
		if err == nil {
			err = f.add(r)
		}
		if err == nil && f.files[missing] == nil {
			err = errors.New("another file came")
		}
		if err != nil {
			return fmt.Errorf("file %s: %w", missing, err)
		}
	}
	return fmt.Errorf("reflection has more than %d files", maxReflectedFiles)
}

func (f *fetcher) missing() string {
	for _, file := range f.files {
		for _, dep := range file.GetDependency() {
			if f.files[dep] == nil {
				return dep
			}
		}
	}
	return ""
}

func (f *fetcher) add(r *reflectionv1.ServerReflectionResponse) error {
	files := r.GetFileDescriptorResponse().GetFileDescriptorProto()
	if len(files) == 0 {
		return errors.New("no file in the answer")
	}
	for _, raw := range files {
		f.size += len(raw)
		if f.size > maxDescriptors || len(f.files) >= maxReflectedFiles {
			return fmt.Errorf("descriptors of more than %d bytes or %d files", maxDescriptors, maxReflectedFiles)
		}
		file := &descriptorpb.FileDescriptorProto{}
		if err := proto.Unmarshal(raw, file); err != nil {
			return fmt.Errorf("read a file descriptor: %w", err)
		}
		f.files[file.GetName()] = file
	}
	return nil
}

// ask makes one call with one question.
func (f *fetcher) ask(ctx context.Context, q *reflectionv1.ServerReflectionRequest) (*reflectionv1.ServerReflectionResponse, error) {
	raw, err := proto.Marshal(q)
	if err != nil {
		return nil, err
	}
	frame := appendMessage(nil, raw)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://reflection"+f.path, bytes.NewReader(frame))
	if err != nil {
		return nil, err
	}
	r.URL = &url.URL{Scheme: "http", Host: "reflection", Path: f.path}
	r.Header.Set("Content-Type", "application/grpc+proto")
	r.Header.Set("Te", "trailers")
	resp, err := f.do.Do(r)
	if err != nil {
		return nil, fmt.Errorf("ask for reflection: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	return f.read(resp)
}

func (f *fetcher) read(resp *http.Response) (*reflectionv1.ServerReflectionResponse, error) {
	if resp.StatusCode != http.StatusOK || !isGRPCType(resp.Header.Get("Content-Type")) {
		if resp.StatusCode == http.StatusNotFound {
			return nil, errNoReflection
		}
		return nil, fmt.Errorf("ask for reflection: answer is %d %s, no gRPC", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	var message []byte
	var head [prefixSize]byte
	_, err := io.ReadFull(resp.Body, head[:])
	if err == nil {
		n := binary.BigEndian.Uint32(head[1:])
		if head[0] != 0 || n > maxReflectedMessage {
			return nil, fmt.Errorf("ask for reflection: %w", errFrame)
		}
		if message, err = whole(io.LimitReader(resp.Body, int64(n)), int(n)); err == nil && len(message) < int(n) {
			err = io.ErrUnexpectedEOF
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("ask for reflection: %w", err)
	}
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 1)); err != nil { // the trailers come after the body's end
		return nil, fmt.Errorf("ask for reflection: %w", err)
	}
	code, why := resp.Trailer.Get("Grpc-Status"), resp.Trailer.Get("Grpc-Message")
	if code == "" {
		code, why = resp.Header.Get("Grpc-Status"), resp.Header.Get("Grpc-Message")
	}
	switch {
	case code == "12":
		return nil, errNoReflection
	case code != "0":
		return nil, fmt.Errorf("ask for reflection: status %q: %s", code, percentDecode(why))
	case message == nil:
		return nil, errors.New("ask for reflection: no message in the answer")
	}
	r := &reflectionv1.ServerReflectionResponse{}
	if err := proto.Unmarshal(message, r); err != nil {
		return nil, fmt.Errorf("ask for reflection: %w", err)
	}
	if e := r.GetErrorResponse(); e != nil {
		return nil, fmt.Errorf("reflection: code %d: %s", e.GetErrorCode(), e.GetErrorMessage())
	}
	return r, nil
}
