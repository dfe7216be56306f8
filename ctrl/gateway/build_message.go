package gateway

import (
	"net/http"

	"github.com/np-appliance/np/ctrl/config"
)

// aggregate answers with one document of several upstreams' answers.
func (b *builder) aggregate(at string, r *config.HTTPRoute) http.Handler { return unsupported() }

// npro sends a route's requests to an upstream that speaks NPRO.
func (b *builder) npro(at string, r *config.HTTPRoute) http.Handler { return unsupported() }
