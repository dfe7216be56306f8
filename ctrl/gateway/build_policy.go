package gateway

import "github.com/np-appliance/np/ctrl/config"

func (b *builder) limits(at string, r *config.HTTPRoute) []stage { return nil }

func (b *builder) auth(at string, r *config.HTTPRoute) []stage { return nil }

func (b *builder) limitsByIdentity(at string, r *config.HTTPRoute) []stage { return nil }

func (b *builder) authz(at string, r *config.HTTPRoute) []stage { return nil }
