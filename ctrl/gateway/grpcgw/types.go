package grpcgw

import (
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	// The details that errors usually have (google.rpc.ErrorInfo and its like) are known
	// without descriptors.
	_ "google.golang.org/genproto/googleapis/rpc/errdetails"
)

// fallback finds types among a schema's, then among those of this program.
type fallback struct{ types *dynamicpb.Types }

func (f fallback) FindMessageByName(name protoreflect.FullName) (protoreflect.MessageType, error) {
	if t, err := f.types.FindMessageByName(name); err == nil {
		return t, nil
	}
	return protoregistry.GlobalTypes.FindMessageByName(name)
}

func (f fallback) FindMessageByURL(url string) (protoreflect.MessageType, error) {
	if t, err := f.types.FindMessageByURL(url); err == nil {
		return t, nil
	}
	return protoregistry.GlobalTypes.FindMessageByURL(url)
}

func (f fallback) FindExtensionByName(name protoreflect.FullName) (protoreflect.ExtensionType, error) {
	return f.types.FindExtensionByName(name)
}

func (f fallback) FindExtensionByNumber(m protoreflect.FullName, n protoreflect.FieldNumber) (protoreflect.ExtensionType, error) {
	return f.types.FindExtensionByNumber(m, n)
}
