package grpcgw

import (
	"errors"
	"fmt"
	"sort"
	"strings"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// Schema is a set of compiled descriptors and what is reached by which path. Immutable.
type Schema struct {
	files    *protoregistry.Files
	types    *dynamicpb.Types
	services []protoreflect.ServiceDescriptor
	methods  map[string]*method // by path, /package.Service/Method
}

// method is one method of a service.
type method struct {
	desc protoreflect.MethodDescriptor
	path string
}

// httpBody is the message that is a body itself.
const httpBody = protoreflect.FullName("google.api.HttpBody")

// maxDescriptors bounds a file descriptor set in bytes.
const maxDescriptors = 64 << 20

// ParseSchema reads a serialized FileDescriptorSet, as protoc --descriptor_set_out
// --include_imports writes it.
func ParseSchema(raw []byte) (*Schema, error) {
	if len(raw) > maxDescriptors {
		return nil, fmt.Errorf("descriptors of %d bytes, at most %d", len(raw), maxDescriptors)
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(raw, &set); err != nil {
		return nil, fmt.Errorf("no FileDescriptorSet (expected the output of protoc --descriptor_set_out --include_imports): %w", err)
	}
	return NewSchema(&set)
}

// NewSchema compiles descriptors. Files that set imports and lacks are taken from those
// that come with protobuf (google/protobuf/…, google/api/…).
func NewSchema(set *descriptorpb.FileDescriptorSet) (*Schema, error) {
	if len(set.GetFile()) == 0 {
		return nil, errors.New("no file in the FileDescriptorSet")
	}
	complete := withKnown(set)
	files, err := protodesc.NewFiles(complete)
	if err != nil {
		return nil, fmt.Errorf("descriptors don't fit together (was --include_imports left out?): %w", err)
	}
	s := &Schema{files: files, types: dynamicpb.NewTypes(files), methods: map[string]*method{}}
	files.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s.services = append(s.services, f.Services().Get(i))
		}
		return true
	})
	sort.Slice(s.services, func(i, j int) bool { return s.services[i].FullName() < s.services[j].FullName() })
	for _, svc := range s.services {
		for i := range svc.Methods().Len() {
			m := svc.Methods().Get(i)
			path := "/" + string(svc.FullName()) + "/" + string(m.Name())
			s.methods[path] = &method{desc: m, path: path}
		}
	}
	return s, nil
}

// withKnown adds imports that this program knows by itself.
func withKnown(set *descriptorpb.FileDescriptorSet) *descriptorpb.FileDescriptorSet {
	out := &descriptorpb.FileDescriptorSet{File: append([]*descriptorpb.FileDescriptorProto(nil), set.GetFile()...)}
	have := map[string]bool{}
	for _, f := range out.File {
		have[f.GetName()] = true
	}
	for i := 0; i < len(out.File); i++ { // bound: each file of the registry once
		for _, dep := range out.File[i].GetDependency() {
			if have[dep] || !strings.HasPrefix(dep, "google/") {
				continue
			}
			if f, err := protoregistry.GlobalFiles.FindFileByPath(dep); err == nil {
				have[dep] = true
				out.File = append(out.File, protodesc.ToFileDescriptorProto(f))
			}
		}
	}
	return out
}

// Services lists the names of the services described.
func (s *Schema) Services() []string {
	out := make([]string, len(s.services))
	for i, svc := range s.services {
		out[i] = string(svc.FullName())
	}
	return out
}

// binding is one way to reach a method by HTTP.
type binding struct {
	method   *method
	verb     string // HTTP method; "*" any
	template *template
	vars     [][]protoreflect.FieldDescriptor // of the template's variables
	body     bodyKind
	field    protoreflect.FieldDescriptor // bodyField
	response protoreflect.FieldDescriptor // nil: the whole message
}

type bodyKind uint8

const (
	bodyNone  bodyKind = iota
	bodyAll            // "*"
	bodyField          // one field
)

func (b *binding) String() string { return b.verb + " " + b.template.key() }

// bind builds the tree of paths for some services; none named: all. auto adds POST on the
// gRPC path for methods without a binding of their own.
func (s *Schema) bind(services []string, auto bool) (*node, int, error) {
	want := map[protoreflect.FullName]bool{}
	for _, name := range services {
		d, err := s.files.FindDescriptorByName(protoreflect.FullName(name))
		if _, ok := d.(protoreflect.ServiceDescriptor); err != nil || !ok {
			return nil, 0, fmt.Errorf("service %q is not in the descriptors, which have %s", name, strings.Join(s.Services(), ", "))
		}
		want[protoreflect.FullName(name)] = true
	}
	root, n := &node{}, 0
	var errs []error
	for _, svc := range s.services {
		if len(want) > 0 && !want[svc.FullName()] {
			continue
		}
		for i := range svc.Methods().Len() {
			m := s.methods["/"+string(svc.FullName())+"/"+string(svc.Methods().Get(i).Name())]
			list, err := m.bindings(auto)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			for _, b := range list {
				if old := root.add(b.verb, b); old != nil {
					errs = append(errs, fmt.Errorf("%s and %s are both bound to %s", old.method.path, m.path, b))
				}
				n++
			}
		}
	}
	return root, n, errors.Join(errs...)
}

// bindings reads a method's google.api.http option.
func (m *method) bindings(auto bool) ([]*binding, error) {
	rule, _ := proto.GetExtension(m.desc.Options(), annotations.E_Http).(*annotations.HttpRule)
	if rule == nil || rule.GetPattern() == nil {
		if !auto {
			return nil, nil
		}
		rule = &annotations.HttpRule{Pattern: &annotations.HttpRule_Post{Post: m.path}, Body: "*"}
	}
	var out []*binding
	for i, r := range append([]*annotations.HttpRule{rule}, rule.GetAdditionalBindings()...) {
		if i > 0 && len(r.GetAdditionalBindings()) > 0 {
			return nil, fmt.Errorf("%s: additional bindings inside an additional binding", m.path)
		}
		b, err := m.binding(r)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.path, err)
		}
		out = append(out, b)
	}
	return out, nil
}

func (m *method) binding(r *annotations.HttpRule) (*binding, error) {
	b := &binding{method: m}
	var path string
	switch p := r.GetPattern().(type) {
	case *annotations.HttpRule_Get:
		b.verb, path = "GET", p.Get
	case *annotations.HttpRule_Put:
		b.verb, path = "PUT", p.Put
	case *annotations.HttpRule_Post:
		b.verb, path = "POST", p.Post
	case *annotations.HttpRule_Delete:
		b.verb, path = "DELETE", p.Delete
	case *annotations.HttpRule_Patch:
		b.verb, path = "PATCH", p.Patch
	case *annotations.HttpRule_Custom:
		b.verb, path = p.Custom.GetKind(), p.Custom.GetPath()
	default:
		return nil, errors.New("a google.api.http rule without pattern")
	}
	var err error
	if b.template, err = parseTemplate(path); err != nil {
		return nil, fmt.Errorf("path template %q: %w", path, err)
	}
	for _, v := range b.template.vars {
		fields, err := fieldPath(m.desc.Input(), v.field, false)
		if err != nil {
			return nil, fmt.Errorf("path template %q: %w", path, err)
		}
		if last := fields[len(fields)-1]; last.IsList() || last.IsMap() || last.Message() != nil && !isScalarMessage(last.Message()) {
			return nil, fmt.Errorf("path template %q: field %s is no scalar", path, v.field)
		}
		b.vars = append(b.vars, fields)
	}
	switch r.GetBody() {
	case "":
	case "*":
		b.body = bodyAll
	default:
		b.body = bodyField
		if b.field = m.desc.Input().Fields().ByName(protoreflect.Name(r.GetBody())); b.field == nil {
			return nil, fmt.Errorf("body %q is no field of %s", r.GetBody(), m.desc.Input().FullName())
		}
	}
	if name := r.GetResponseBody(); name != "" {
		if b.response = m.desc.Output().Fields().ByName(protoreflect.Name(name)); b.response == nil {
			return nil, fmt.Errorf("response_body %q is no field of %s", name, m.desc.Output().FullName())
		}
	}
	return b, nil
}

// maxFieldPath bounds how deep a dotted path goes.
const maxFieldPath = 32

// fieldPath finds a dotted path; json: JSON names do as well.
func fieldPath(m protoreflect.MessageDescriptor, path string, json bool) ([]protoreflect.FieldDescriptor, error) {
	var out []protoreflect.FieldDescriptor
	for name := range strings.SplitSeq(path, ".") {
		if len(out) >= maxFieldPath {
			return nil, fmt.Errorf("field path of more than %d names", maxFieldPath)
		}
		if len(out) > 0 {
			last := out[len(out)-1]
			if last.Message() == nil || last.IsList() || last.IsMap() {
				return nil, fmt.Errorf("field %s has no fields of its own", last.Name())
			}
			m = last.Message()
		}
		f := m.Fields().ByName(protoreflect.Name(name))
		if f == nil && json {
			f = m.Fields().ByJSONName(name)
		}
		if f == nil {
			return nil, fmt.Errorf("%s has no field %q", m.FullName(), name)
		}
		out = append(out, f)
	}
	return out, nil
}

// isScalarMessage says whether a message is one value in JSON.
func isScalarMessage(m protoreflect.MessageDescriptor) bool {
	switch m.FullName() {
	case "google.protobuf.Timestamp", "google.protobuf.Duration", "google.protobuf.FieldMask",
		"google.protobuf.DoubleValue", "google.protobuf.FloatValue", "google.protobuf.Int64Value", "google.protobuf.UInt64Value",
		"google.protobuf.Int32Value", "google.protobuf.UInt32Value", "google.protobuf.BoolValue", "google.protobuf.StringValue",
		"google.protobuf.BytesValue":
		return true
	}
	return false
}
