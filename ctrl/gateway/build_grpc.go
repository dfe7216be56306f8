package gateway

import "github.com/np-appliance/np/ctrl/config"

func (b *builder) grpc(at string, r *config.HTTPRoute) []stage { return nil }
