package grpcgw

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// setField puts the text of a path's variable or of a query's parameter into a message.
// Repeated fields grow.
func setField(m protoreflect.Message, fields []protoreflect.FieldDescriptor, text string) error {
	for _, f := range fields[:len(fields)-1] {
		m = m.Mutable(f).Message()
	}
	f := fields[len(fields)-1]
	if f.IsMap() {
		return fmt.Errorf("field %s is a map, which no parameter can be", f.Name())
	}
	if f.IsList() {
		list := m.Mutable(f).List()
		v, err := parseValue(f, text, list.NewElement)
		if err == nil {
			list.Append(v)
		}
		return err
	}
	if oneof := f.ContainingOneof(); oneof != nil && !oneof.IsSynthetic() {
		if other := m.WhichOneof(oneof); other != nil && other != f {
			return fmt.Errorf("fields %s and %s can't both be set", other.Name(), f.Name())
		}
	}
	v, err := parseValue(f, text, func() protoreflect.Value { return m.NewField(f) })
	if err == nil {
		m.Set(f, v)
	}
	return err
}

// parseValue reads one value. make makes an empty one for messages.
func parseValue(f protoreflect.FieldDescriptor, text string, make func() protoreflect.Value) (v protoreflect.Value, err error) {
	switch f.Kind() {
	case protoreflect.BoolKind:
		switch text {
		case "true":
			return protoreflect.ValueOfBool(true), nil
		case "false":
			return protoreflect.ValueOfBool(false), nil
		}
		err = errors.New("expected true or false")
	case protoreflect.StringKind:
		if utf8.ValidString(text) {
			return protoreflect.ValueOfString(text), nil
		}
		err = errors.New("expected UTF-8")
	case protoreflect.BytesKind:
		var b []byte
		if b, err = parseBase64(text); err == nil {
			return protoreflect.ValueOfBytes(b), nil
		}
	case protoreflect.EnumKind:
		return parseEnum(f, text)
	case protoreflect.MessageKind, protoreflect.GroupKind:
		v = make()
		if err = parseMessage(v.Message().Interface(), text); err == nil {
			return v, nil
		}
	default:
		v, err = parseNumber(f.Kind(), text)
	}
	if err != nil {
		return v, fmt.Errorf("field %s: %q: %w", f.Name(), clip(text), err)
	}
	return v, nil
}

func parseNumber(kind protoreflect.Kind, text string) (protoreflect.Value, error) {
	switch kind {
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		n, err := strconv.ParseInt(text, 10, 32)
		return protoreflect.ValueOfInt32(int32(n)), numberError(err, "a number of 32 bits")
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		n, err := strconv.ParseInt(text, 10, 64)
		return protoreflect.ValueOfInt64(n), numberError(err, "a number of 64 bits")
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		n, err := strconv.ParseUint(text, 10, 32)
		return protoreflect.ValueOfUint32(uint32(n)), numberError(err, "a number of 32 bits without sign")
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		n, err := strconv.ParseUint(text, 10, 64)
		return protoreflect.ValueOfUint64(n), numberError(err, "a number of 64 bits without sign")
	case protoreflect.FloatKind:
		x, err := parseFloat(text, 32)
		return protoreflect.ValueOfFloat32(float32(x)), numberError(err, "a number")
	}
	x, err := parseFloat(text, 64)
	return protoreflect.ValueOfFloat64(x), numberError(err, "a number")
}

func numberError(err error, expected string) error {
	if err == nil {
		return nil
	}
	return errors.New("expected " + expected)
}

func parseFloat(text string, bits int) (float64, error) {
	switch text {
	case "NaN":
		return math.NaN(), nil
	case "Infinity":
		return math.Inf(1), nil
	case "-Infinity":
		return math.Inf(-1), nil
	}
	if strings.Trim(text, "0123456789.eE+-") != "" { // no 0x, no inf, no underscores
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseFloat(text, bits)
}

func parseEnum(f protoreflect.FieldDescriptor, text string) (protoreflect.Value, error) {
	if v := f.Enum().Values().ByName(protoreflect.Name(text)); v != nil {
		return protoreflect.ValueOfEnum(v.Number()), nil
	}
	if n, err := strconv.ParseInt(text, 10, 32); err == nil {
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(n)), nil
	}
	return protoreflect.Value{}, fmt.Errorf("field %s: %q is no value of %s", f.Name(), clip(text), f.Enum().FullName())
}

// parseMessage reads a message that is one value in JSON: bare where that is a number or
// a word, else as a string.
func parseMessage(m proto.Message, text string) error {
	d := m.ProtoReflect().Descriptor()
	if !isScalarMessage(d) {
		return fmt.Errorf("%s is a message: name one of its fields", d.FullName())
	}
	raw, err := json.Marshal(text)
	if err != nil {
		return err
	}
	if d.FullName() == "google.protobuf.BoolValue" {
		raw = []byte(text)
	}
	if protojson.Unmarshal(raw, m) != nil {
		return fmt.Errorf("expected %s", d.FullName())
	}
	return nil
}

func parseBase64(text string) ([]byte, error) {
	text = strings.TrimRight(text, "=")
	text = strings.NewReplacer("-", "+", "_", "/").Replace(text)
	b, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		return nil, errors.New("expected base64")
	}
	return b, nil
}

func base64URL(b []byte) string { return base64.URLEncoding.EncodeToString(b) }

// floatText writes a number as parseFloat reads it.
func floatText(x float64, bits int) string {
	switch {
	case math.IsInf(x, 1):
		return "Infinity"
	case math.IsInf(x, -1):
		return "-Infinity"
	}
	return strconv.FormatFloat(x, 'g', -1, bits)
}

// clip shortens what a client sent for an error.
func clip(s string) string {
	const most = 64
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// maxQuery bounds the parameters of a query.
const maxQuery = 256

// applyQuery sets the fields that the query names. Those that the path or the body set,
// and unknown ones, are errors, except for what ignore lists ("*": all unknown ones).
func (b *binding) applyQuery(m protoreflect.Message, raw string, ignore []string) error {
	if raw == "" {
		return nil
	}
	if strings.Count(raw, "&") >= maxQuery {
		return fmt.Errorf("query of more than %d parameters", maxQuery)
	}
	for pair := range strings.SplitSeq(raw, "&") {
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		name, err1 := url.QueryUnescape(name)
		value, err2 := url.QueryUnescape(value)
		if err := errors.Join(err1, err2); err != nil {
			return fmt.Errorf("query: %w", err)
		}
		if slices.Contains(ignore, name) {
			continue
		}
		if b.body == bodyAll {
			if slices.Contains(ignore, "*") {
				continue
			}
			return fmt.Errorf("query parameter %q: every field comes from the body here", clip(name))
		}
		fields, err := fieldPath(m.Descriptor(), name, true)
		if err != nil {
			if slices.Contains(ignore, "*") {
				continue
			}
			return fmt.Errorf("query parameter %q: %w", clip(name), err)
		}
		if b.owns(fields) {
			return fmt.Errorf("query parameter %q is set by the path or the body", clip(name))
		}
		if err := setField(m, fields, value); err != nil {
			return fmt.Errorf("query: %w", err)
		}
	}
	return nil
}

// owns says whether the path or the body sets a field.
func (b *binding) owns(fields []protoreflect.FieldDescriptor) bool {
	if b.body == bodyField && fields[0] == b.field {
		return true
	}
	for _, v := range b.vars {
		if slices.Equal(v, fields) {
			return true
		}
	}
	return false
}

// applyPath sets the fields of the template's variables.
func (b *binding) applyPath(m protoreflect.Message, segments []string) error {
	for i := range b.template.vars {
		text, err := b.template.vars[i].value(segments)
		if err != nil {
			return fmt.Errorf("path: %w", err)
		}
		if err := setField(m, b.vars[i], text); err != nil {
			return fmt.Errorf("path: %w", err)
		}
	}
	return nil
}

// wrap makes of a field's JSON the JSON of a message that has nothing else.
func wrap(f protoreflect.FieldDescriptor, value []byte) []byte {
	var b bytes.Buffer
	name, _ := json.Marshal(f.JSONName()) // a string: it can't fail
	b.WriteByte('{')
	b.Write(name)
	b.WriteByte(':')
	b.Write(value)
	b.WriteByte('}')
	return b.Bytes()
}
