package config

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// RouteGRPC is [route.grpc].
type RouteGRPC struct {
	Web            bool          `key:"web" default:"false" doc:"take gRPC-Web too"`
	Descriptors    string        `key:"descriptors" default:"" doc:"a FileDescriptorSet with imports, or \"reflection\" to ask the upstream: JSON over HTTP becomes gRPC by its google.api.http rules"`
	REST           bool          `key:"rest" default:"false" doc:"the upstream speaks JSON over HTTP: gRPC becomes such requests by the rules of the descriptors, which a file has; requests that are no gRPC pass as they are"`
	RESTPrefix     string        `key:"rest_prefix" default:"" doc:"rest: goes before the paths of the rules, such as \"/api\""`
	Refresh        time.Duration `key:"refresh" default:"0" max:"24h" doc:"how often reflection is asked again, 1s at least; 0: until it answered once"`
	Services       []string      `key:"services" default:"" doc:"package.Service of the descriptors that are reached and shown; none: all"`
	AutoBind       bool          `key:"auto_bind" default:"false" doc:"methods without google.api.http are POST /package.Service/Method"`
	PassUnmatched  bool          `key:"pass_unmatched" default:"false" doc:"requests that no rule of the descriptors matches go on as they are; false: 404"`
	Stream         string        `key:"stream" default:"lines" oneof:"lines|events|array" doc:"how streams of JSON look where the client takes anything: application/x-ndjson, text/event-stream, or one array"`
	IgnoreUnknown  bool          `key:"ignore_unknown" default:"false" doc:"skip fields of JSON that the message lacks, instead of refusing them; with rest, of the upstream's answers"`
	IgnoreQuery    []string      `key:"ignore_query" default:"" doc:"parameters of the query that are skipped; \"*\": all that name no field"`
	EmitDefaults   bool          `key:"emit_defaults" default:"false" doc:"write fields that have no value too"`
	ProtoNames     bool          `key:"proto_names" default:"false" doc:"fields are called as in the .proto"`
	EnumNumbers    bool          `key:"enum_numbers" default:"false" doc:"enums are written as numbers"`
	Reflection     bool          `key:"reflection" default:"false" doc:"the gateway answers grpc.reflection by its descriptors; false: the upstream does"`
	Health         bool          `key:"health" default:"false" doc:"the gateway answers grpc.health.v1 by the upstream's state; false: the upstream does"`
	MaxMessage     Size          `key:"max_message" default:"4MiB" min:"1KiB" max:"1GiB" doc:"of one message, both ways; with rest, of its JSON"`
	DefaultTimeout time.Duration `key:"default_timeout" default:"0" max:"24h" doc:"of calls that bring no grpc-timeout; 0: max_timeout"`
	MaxTimeout     time.Duration `key:"max_timeout" default:"0" max:"24h" doc:"longer ones are lowered to it; 0 no bound"`
}

// RouteWebSocket is [route.websocket].
type RouteWebSocket struct {
	Mode         string        `key:"mode" default:"proxy" oneof:"off|proxy|terminate" doc:"proxy: to the upstream; terminate: messages become NPRO's, with npro_opcode"`
	Requests     bool          `key:"requests" default:"false" doc:"terminate: each message is a REQUEST of its own; false: one stream of messages"`
	Origins      []string      `key:"origins" default:"" doc:"terminate: whose pages may, \"https://app.example\", \"https://*.example\" or \"*\"; none: those of the request's own host"`
	Subprotocols []string      `key:"subprotocols" default:"" doc:"terminate: taken, the best first"`
	MaxMessage   Size          `key:"max_message" default:"1MiB" min:"1" max:"16MiB" doc:"terminate: of one message"`
	Ping         time.Duration `key:"ping" default:"30s" min:"10ms" max:"1h" doc:"terminate: a silent client is asked so often, and let go after two"`
	Compress     bool          `key:"compress" default:"false" doc:"terminate: permessage-deflate, which costs memory for each client"`
}

// RouteNPRO is [route.npro].
type RouteNPRO struct {
	Payload       string `key:"payload" default:"body" oneof:"body|http|grpc" doc:"what requests and responses of NPRO hold: the body alone, the whole message as RFC 9292 has it, or (with opcode) a message of gRPC"`
	Stream        string `key:"stream" default:"off" oneof:"off|bytes|events" doc:"with npro_opcode: a byte stream for each request, of gRPC's messages where it is gRPC; events: its messages become server-sent events"`
	TenantHeader  string `key:"tenant_header" default:"" doc:"field of HTTP that is the context's tenant"`
	SessionHeader string `key:"session_header" default:"" doc:"field of HTTP that is the context's session"`
	Priority      int    `key:"priority" default:"0" min:"0" max:"7" doc:"with npro_opcode: of its messages"`
	ContentType   string `key:"content_type" default:"application/octet-stream" doc:"of bodies whose context names none"`
	MaxMessage    Size   `key:"max_message" default:"1MiB" min:"1" max:"16MiB" doc:"of a body that is no stream"`
	Method        string `key:"method" default:"POST" doc:"with opcode and payload body: of the request"`
	Path          string `key:"path" default:"" doc:"with opcode: of the request; /package.Service/Method for payload grpc; none: / and the opcode"`
	Host          string `key:"host" default:"npro" doc:"with opcode: the Host that upstreams see"`
}

// UpstreamNPRO is [upstream.npro].
type UpstreamNPRO struct {
	Pattern        string   `key:"pattern" default:"XX" oneof:"XX|IK|NX|NNpsk0" doc:"of the handshake; IK needs exactly one key"`
	Keys           []string `key:"keys" default:"" doc:"public keys that endpoints may have, as npctl key public prints; required but for NNpsk0"`
	PrivateKeyFile string   `key:"private_key_file" default:"" doc:"our own key; none: [protocol] private_key_file"`
	PSKFile        string   `key:"psk_file" default:"" doc:"pre-shared key, of NNpsk0"`
	Hybrid         bool     `key:"hybrid" default:"true" doc:"ML-KEM-768 beside X25519; endpoints must do the same"`
	PerConnection  int      `key:"per_connection" default:"128" min:"1" max:"65536" doc:"requests and streams on one connection before another is opened"`
}

// Aggregate is [route.aggregate].
type Aggregate struct {
	Merge          []string      `key:"merge" default:"" doc:"\"key=part\" or \"key=part/json/pointer\", keys with dots nest; none: each part under its name"`
	Timeout        time.Duration `key:"timeout" default:"10s" min:"1ms" max:"1h" doc:"of all parts"`
	MissingKey     string        `key:"missing_key" default:"" doc:"key under which the answer says which parts are missing and why; the field Aggregate-Missing does in any case"`
	MaxRequestBody Size          `key:"max_request_body" default:"1MiB" min:"1" max:"64MiB" doc:"of the client's body, where a part is sent it"`
}

// Part is one [[route.part]].
type Part struct {
	Name          string        `key:"name" need:"a name" doc:"letters, digits, _ and -"`
	Upstream      string        `key:"upstream" need:"an [[upstream]]" doc:""`
	Method        string        `key:"method" default:"GET" doc:""`
	Path          string        `key:"path" need:"a path" doc:"with {name} of the pattern, {query.NAME}, {header.NAME} and {part/json/pointer} of another's answer"`
	Host          string        `key:"host" default:"" doc:"none: the client's"`
	Timeout       time.Duration `key:"timeout" default:"0" max:"1h" doc:"0: the upstream's, and the aggregate's"`
	Optional      bool          `key:"optional" default:"false" doc:"the answer does without it"`
	Default       string        `key:"default" default:"null" doc:"JSON that stands for it then"`
	RequestFields []string      `key:"request_fields" default:"" doc:"of the client's request that are sent along"`
	SetFields     []string      `key:"set_fields" default:"" doc:"\"Name: value\", sent too"`
	AnswerFields  []string      `key:"answer_fields" default:"" doc:"of its answer that the client gets"`
	SendBody      bool          `key:"send_body" default:"false" doc:"the client's body is sent along"`
	MaxBody       Size          `key:"max_body" default:"1MiB" min:"1" max:"64MiB" doc:"of its answer"`
}

// routeMessages checks what concerns gRPC, NPRO and WebSocket, as far as it is of more
// than one key. What descriptors and paths say is checked by who compiles them.
func (l *loader) routeMessages(r *HTTPRoute, at string) {
	speaks := func(name string) string {
		if u := l.cfg.UpstreamNamed(name); u != nil {
			return u.Protocol
		}
		return ""
	}
	toNPRO := speaks(r.Upstream) == "npro"
	switch {
	case r.NPROOpcode != "" && !toNPRO && r.Upstream != "":
		l.fail(l.cfg.Pos(at+".npro_opcode"), "route.npro_opcode: upstream %q speaks %s, expected one with protocol = \"npro\"", r.Upstream, speaks(r.Upstream))
	case r.NPROOpcode != "" && r.Upstream == "":
		l.fail(l.cfg.Pos(at+".npro_opcode"), "route.npro_opcode: expected upstream with it, not split or an answer of the route's own")
	case r.NPROOpcode == "" && toNPRO:
		l.fail(l.cfg.Pos(at+".upstream"), "route.upstream: %q speaks npro, expected npro_opcode = \"...\" with it", r.Upstream)
	}
	for i, s := range append(slices.Clone(r.Split), r.Mirror...) {
		if name, _, _ := strings.Cut(s, "="); speaks(name) == "npro" {
			l.fail(l.cfg.Pos(at), "[[route]] %q: split and mirror (entry %d) can't go to %q, which speaks npro", r.Name, i+1, name)
		}
	}
	for i, p := range r.Parts {
		if speaks(p.Upstream) == "npro" {
			l.fail(l.cfg.Pos(fmt.Sprintf("%s.part[%d].upstream", at, i)), "route.part.upstream: %q speaks npro, expected one of HTTP", p.Upstream)
		}
	}
	if r.NPROOpcode != "" {
		l.opcodes(at+".npro_opcode", []string{r.NPROOpcode})
	}
	if r.WebSocket.Mode == "terminate" && r.NPROOpcode == "" {
		l.fail(l.cfg.Pos(at+".websocket.mode"), "route.websocket.mode: terminate makes messages of NPRO, expected npro_opcode with it")
	}
	if r.NPRO.Payload == "grpc" && r.Opcode == "" {
		l.fail(l.cfg.Pos(at+".npro.payload"), "route.npro.payload: grpc is for opcode, expected body or http (unary gRPC goes to npro_opcode by itself)")
	}
	if r.Opcode != "" {
		l.opcodeRoute(r, at)
	}
	l.routeGRPC(&r.GRPC, r, at)
}

// opcodeRoute checks a route that is for NPRO requests.
func (l *loader) opcodeRoute(r *HTTPRoute, at string) {
	l.opcodes(at+".opcode", []string{r.Opcode})
	for key, set := range map[string]bool{"hosts": len(r.Hosts) > 0, "path": r.Path != "", "path_prefix": r.PathPrefix != "", "path_pattern": r.PathPattern != "", "methods": len(r.Methods) > 0,
		"headers": len(r.Headers) > 0, "query": len(r.Query) > 0, "sni": len(r.SNI) > 0, "alpn": len(r.ALPN) > 0, "grpc_service": r.GRPCService != "", "grpc_method": r.GRPCMethod != "",
		"listeners": len(r.Listeners) > 0, "passthrough": r.Passthrough} {
		if set {
			l.fail(l.cfg.Pos(at+"."+key), "route.%s: the route is for NPRO requests of opcode %q, which every listener of protocol npro takes, expected no other condition", key, r.Opcode)
		}
	}
	for i := range l.cfg.HTTPRoutes {
		if o := &l.cfg.HTTPRoutes[i]; o != r && o.Opcode == r.Opcode && o.Name < r.Name {
			l.fail(l.cfg.Pos(at+".opcode"), "route.opcode: %q is that of [[route]] %q too, expected one route for each", r.Opcode, o.Name)
		}
	}
	if slices.Contains([]string{"ECHO", "DISCARD", "INFO"}, r.Opcode) {
		l.fail(l.cfg.Pos(at+".opcode"), "route.opcode: npd answers %q itself, expected another", r.Opcode)
	}
	if r.NPRO.Payload == "grpc" && strings.Count(r.NPRO.Path, "/") != 2 {
		l.fail(l.cfg.Pos(at+".npro.path"), "route.npro.path: got %q, expected \"/package.Service/Method\" with payload grpc", r.NPRO.Path)
	}
}

func (l *loader) routeGRPC(g *RouteGRPC, r *HTTPRoute, at string) {
	if g.Reflection && g.Descriptors == "" {
		l.fail(l.cfg.Pos(at+".grpc.reflection"), "route.grpc.reflection: there is nothing to show, expected descriptors with it")
	}
	if g.Descriptors == "reflection" && r.Upstream == "" {
		l.fail(l.cfg.Pos(at+".grpc.descriptors"), "route.grpc.descriptors: nobody to ask for reflection, expected upstream with it")
	}
	if g.Refresh != 0 && (g.Descriptors != "reflection" || g.Refresh < time.Second) {
		l.fail(l.cfg.Pos(at+".grpc.refresh"), "route.grpc.refresh: got %v, expected it with descriptors = \"reflection\", and 1s at least", g.Refresh)
	}
	if g.MaxTimeout > 0 && g.DefaultTimeout > g.MaxTimeout {
		l.fail(l.cfg.Pos(at+".grpc.default_timeout"), "route.grpc.default_timeout: %v is above max_timeout (%v)", g.DefaultTimeout, g.MaxTimeout)
	}
}

// upstreamNPRO checks [upstream.npro].
func (l *loader) upstreamNPRO(u *Upstream, at string) {
	n := &u.NPRO
	if u.Protocol != "npro" {
		return
	}
	switch {
	case n.Pattern == "NNpsk0" && n.PSKFile == "":
		l.fail(l.cfg.Pos(at+".npro"), "upstream.npro: pattern NNpsk0 without a key, expected psk_file")
	case n.Pattern != "NNpsk0" && len(n.Keys) == 0:
		l.fail(l.cfg.Pos(at), "[[upstream]] %q speaks npro to whoever answers, expected npro.keys = [...] with the endpoints' public keys", u.Name)
	case n.Pattern == "IK" && len(n.Keys) != 1:
		l.fail(l.cfg.Pos(at+".npro.keys"), "upstream.npro.keys: %d keys, expected the one that pattern IK begins with", len(n.Keys))
	}
	if u.TLS.Enabled {
		l.fail(l.cfg.Pos(at+".tls"), "upstream.tls: npro is encrypted by itself, expected no TLS")
	}
}
