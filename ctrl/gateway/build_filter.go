package gateway

import (
	"net/http"

	"github.com/np-appliance/np/ctrl/config"
)

func (b *builder) cors(at string, r *config.HTTPRoute) []stage { return nil }

func (b *builder) edits(at string, r *config.HTTPRoute) []stage { return nil }

func (b *builder) compression(at string, r *config.HTTPRoute) []stage { return nil }

func (b *builder) bodyLimit(at string, r *config.HTTPRoute) []stage { return nil }

// answer is a route's own answer: a redirect, a text, files.
func (b *builder) answer(at string, r *config.HTTPRoute) http.Handler { return unsupported() }
