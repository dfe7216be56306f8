package config

import "time"

// HTTPRoute is one [[route]].
type HTTPRoute struct {
	Name      string   `key:"name" need:"a name such as \"users\"" doc:"in logs and metrics"`
	Listeners []string `key:"listeners" default:"" doc:"that it is for; none: all of protocol http"`

	Hosts       []string `key:"hosts" default:"" doc:"\"api.example\", \"*.example\" (any names before it); none: any"`
	Path        string   `key:"path" default:"" doc:"exactly this"`
	PathPrefix  string   `key:"path_prefix" default:"" doc:"this and what is below it: \"/a\" is /a and /a/b, never /ab"`
	PathPattern string   `key:"path_pattern" default:"" doc:"segments, with {name} for one and {name...} for the rest"`
	Methods     []string `key:"methods" default:"" doc:"none: any; GET is HEAD too"`
	Headers     []string `key:"headers" default:"" doc:"\"X-Env=canary\", \"X-Env\" (there), \"X-Env^=ca\" (begins), \"X-Env~=ca.*\" (regular expression for all of it); all must hold"`
	Query       []string `key:"query" default:"" doc:"the same for parameters"`
	SNI         []string `key:"sni" default:"" doc:"server names of TLS"`
	ALPN        []string `key:"alpn" default:"" doc:"protocols that TLS agreed on, or for passthrough offered"`
	GRPCService string   `key:"grpc_service" default:"" doc:"package.Service"`
	GRPCMethod  string   `key:"grpc_method" default:"" doc:"of it"`
	Opcode      string   `key:"opcode" default:"" doc:"of NPRO requests, on every listener of protocol npro; see [route.npro]"`

	Upstream    string   `key:"upstream" default:"" doc:"where requests go"`
	Split       []string `key:"split" default:"" doc:"instead: \"api=90\", \"api-next=10\"; a request goes the way its upstream says, retries and fields included"`
	SplitSticky bool     `key:"split_sticky" default:"false" doc:"one client stays with one part, by the first upstream's hash_key"`
	Mirror      []string `key:"mirror" default:"" doc:"upstreams that get a copy, \"shadow\" or \"shadow=10\" percent; their answers are thrown away"`
	Redirect    string   `key:"redirect" default:"" doc:"instead: a URL such as \"https://{host}{path}\", or a path; the query is kept"`
	DropQuery   bool     `key:"redirect_drop_query" default:"false" doc:"the query is not kept"`
	Status      int      `key:"status" default:"0" min:"0" max:"599" doc:"of redirect (307) or body (200); alone: an answer without a body"`
	Body        string   `key:"body" default:"" doc:"instead: this answer"`
	BodyType    string   `key:"body_type" default:"text/plain; charset=utf-8" doc:"its media type"`
	StaticDir   string   `key:"static_dir" default:"" doc:"instead: files below this directory; path_prefix is taken off unless the path is rewritten"`
	Index       string   `key:"index" default:"index.html" doc:"of static_dir: a directory's file"`
	Fallback    string   `key:"static_fallback" default:"" doc:"of static_dir: served instead of 404, such as \"index.html\""`
	Precompress bool     `key:"static_precompressed" default:"false" doc:"of static_dir: FILE.zst and FILE.gz for clients that take them, if not older than FILE"`
	StaticTypes []string `key:"static_types" default:"" doc:"of static_dir: media types by extension, \".md=text/markdown\""`
	Passthrough bool     `key:"passthrough" default:"false" doc:"TLS is not ended here: bytes go to the upstream by sni and alpn alone"`
	NPROOpcode  string   `key:"npro_opcode" default:"" doc:"the upstream speaks npro: requests go there with this opcode"`

	RewritePath    string   `key:"rewrite_path" default:"" doc:"the path that is seen behind, \"/v2/users/{id}\", with variables"`
	RewritePrefix  string   `key:"rewrite_prefix" default:"" doc:"instead of path_prefix"`
	RewriteRegexp  string   `key:"rewrite_regexp" default:"" doc:"what of the decoded path is replaced"`
	RewriteTo      string   `key:"rewrite_to" default:"" doc:"by this, with $1 or ${name} for what groups matched"`
	RewriteHost    string   `key:"rewrite_host" default:"" doc:"the Host that is seen behind, with variables"`
	RequestRemove  []string `key:"request_remove" default:"" doc:"names of header fields; \"X-Internal-*\" all that begin so"`
	RequestSet     []string `key:"request_set" default:"" doc:"\"Name: value\", with variables"`
	RequestAdd     []string `key:"request_add" default:"" doc:"one more line of it"`
	RequestAppend  []string `key:"request_append" default:"" doc:"one more element of its list"`
	ResponseRemove []string `key:"response_remove" default:"" doc:"the same for answers, the route's own refusals too"`
	ResponseSet    []string `key:"response_set" default:"" doc:""`
	ResponseAdd    []string `key:"response_add" default:"" doc:""`
	ResponseAppend []string `key:"response_append" default:"" doc:""`

	MaxBody     Size          `key:"max_body" default:"0" min:"0" doc:"bytes of a request's body; 0: the listener's"`
	Timeout     time.Duration `key:"timeout" default:"0" max:"24h" doc:"of a request with all its tries; 0: the upstream's"`
	Compress    []string      `key:"compress" default:"" oneof:"zstd|gzip" doc:"answers, in order of preference"`
	CompressMin Size          `key:"compress_min" default:"1KiB" min:"1" max:"1MiB" doc:"shorter answers are not"`
	CompressLev int           `key:"compress_level" default:"1" min:"1" max:"3" doc:"1 fast to 3 small"`
	CompressTyp []string      `key:"compress_types" default:"" doc:"media types, \"text/*\" or \"*/*+json\"; none: those that get smaller"`
	Decompress  []string      `key:"decompress" default:"" oneof:"gzip|zstd" doc:"bodies of requests with these encodings go on plain, others with an encoding are refused (415); none: as they are"`
	DecompMax   Size          `key:"decompress_max" default:"8MiB" min:"1" max:"1GiB" doc:"of a body when it is decompressed; max_body is of what is sent"`
	DecompRatio int           `key:"decompress_ratio" default:"100" min:"1" max:"100000" doc:"bytes that may come of one, after the first 64 KiB"`
	Upgrades    []string      `key:"upgrades" default:"" doc:"protocols other than websocket that clients may switch to, by Upgrade or extended CONNECT; their bytes are passed on"`
	EarlyData   bool          `key:"early_data" default:"false" doc:"takes HTTP/3 0-RTT requests"`

	CORS        CORS           `key:"cors" doc:"what pages of other origins may do"`
	Auth        RouteAuth      `key:"auth" doc:"who may ask"`
	Authz       RouteAuthz     `key:"authz" doc:"what they may"`
	RateLimit   RouteRate      `key:"rate_limit" doc:"requests in a time"`
	Concurrency Concurrency    `key:"concurrency" doc:"requests at a time"`
	Shedding    RouteShedding  `key:"load_shedding" doc:"refusing early when answers take long"`
	GRPC        RouteGRPC      `key:"grpc" doc:"gRPC for others"`
	WebSocket   RouteWebSocket `key:"websocket" doc:"what becomes of them"`
	NPRO        RouteNPRO      `key:"npro" doc:"how HTTP becomes NPRO, with npro_opcode, or NPRO HTTP, with opcode"`
	Aggregate   Aggregate      `key:"aggregate" doc:"one answer of several upstreams"`
	Parts       []Part         `key:"part" doc:"one request of aggregate"`
}

// CORS is [route.cors].
type CORS struct {
	Origins     []string      `key:"origins" default:"" doc:"\"https://app.example\", \"https://*.example\" or \"*\"; none: CORS is the upstream's own matter"`
	Methods     []string      `key:"methods" default:"GET,HEAD,POST" doc:"GET, HEAD and POST need no permission; \"*\" any"`
	Headers     []string      `key:"headers" default:"" doc:"request fields that may be set; \"*\" any"`
	Expose      []string      `key:"expose" default:"" doc:"fields of answers that pages see"`
	Credentials bool          `key:"credentials" default:"false" doc:"with cookies; not with origin \"*\""`
	MaxAge      time.Duration `key:"max_age" default:"10m" max:"24h" doc:"that browsers remember it"`
}
