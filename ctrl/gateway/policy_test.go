package gateway

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	jose "github.com/go-jose/go-jose/v4"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/gateway/server/servertest"
	"github.com/np-appliance/np/ctrl/secure"
)

// whoami answers with the fields that tell who asks.
func whoami(t *testing.T) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "user=%q", r.Header.Values("X-User"))
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// users writes a file of users whose password is "secret".
func users(t *testing.T, path string, names ...string) {
	t.Helper()
	h, err := bcrypt.GenerateFromPassword([]byte("secret"), 8)
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for _, n := range names {
		text += n + ":" + string(h) + "\n"
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// as asks as a user, "" nobody, with fields.
func (r *rig) as(t *testing.T, user, path string, fields ...string) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if user != "" {
		req.SetBasicAuth(user, "secret")
	}
	for i := 0; i < len(fields); i += 2 {
		req.Header.Set(fields[i], fields[i+1])
	}
	res, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b), res.Header
}

const basicAuth = "[[auth]]\nname = \"users\"\nkind = \"basic\"\nfile = \"%s\"\nexpose = [\"X-User: {subject}\"]\n"

// TestPolicyReload: what is known is carried over, files are read again, and one that is
// not good leaves everything as it was.
func TestPolicyReload(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	users(t, file, "ann")
	text := fmt.Sprintf(basicAuth, file) + "[[rate_limit]]\nname = \"all\"\nrequests = 3\nper = \"1h\"\nkey = []\n" + upstreamOf("u", whoami(t)) +
		"[[route]]\nname = \"all\"\npath_prefix = \"/\"\nupstream = \"u\"\nauth.providers = [\"users\"]\nrate_limit.use = [\"all\"]\n"
	r := newRig(t, text)
	if status, body, _ := r.as(t, "ann", "/"); status != 200 || body != `user=["ann"]` {
		t.Fatalf("%d %s", status, body)
	}
	before := r.gen.Load().policy
	users(t, file, "bob")
	r.apply(t, load(t, text))
	after := r.gen.Load().policy
	if before.auths["users"] != after.auths["users"] || before.rates["all"] != after.rates["all"] {
		t.Error("parts that did not change were made again")
	}
	if status, _, _ := r.as(t, "ann", "/"); status != 401 {
		t.Errorf("a user that was taken out: %d", status)
	}
	if status, body, _ := r.as(t, "bob", "/"); status != 200 {
		t.Errorf("a user that was put in: %d %s", status, body)
	}
	if status, _, h := r.as(t, "bob", "/"); status != 429 || h.Get("Retry-After") == "" {
		t.Errorf("the limit was forgotten: %d", status)
	}
	if err := os.WriteFile(file, []byte("eve:plain\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := r.Prepare(load(t, text))
	if err == nil || !strings.Contains(err.Error(), `np.toml:8:1: [[auth]] "users": `+file+`:1: user "eve": an unknown kind of hash`) {
		t.Errorf("%v", err)
	}
	r.apply(t, load(t, strings.ReplaceAll(strings.Replace(text, "requests = 3", "requests = 9", 1), file, replacement(t))))
	if r.gen.Load().policy.rates["all"] == before.rates["all"] || before.auths["users"].part.stop == nil {
		t.Error("a limit that changed was carried over")
	}
	if status, body, _ := r.as(t, "zoe", "/"); status != 200 {
		t.Errorf("after a change: %d %s", status, body)
	}
}

func replacement(t *testing.T) string {
	file := filepath.Join(t.TempDir(), "others")
	users(t, file, "zoe")
	return file
}

// TestExposedTrailers: nor behind a body, announced or not.
func TestExposedTrailers(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%q, %v", r.Trailer, err)
	}))
	t.Cleanup(s.Close)
	file := filepath.Join(t.TempDir(), "users")
	users(t, file, "ann")
	r := newRig(t, fmt.Sprintf(basicAuth, file)+upstreamOf("u", strings.TrimPrefix(s.URL, "http://"))+
		"[[route]]\nname = \"open\"\npath_prefix = \"/\"\nupstream = \"u\"\n")
	for announced, want := range map[string]string{"": `map[], <nil>`, "X-Sum": `map["X-Sum":["1"]], <nil>`, "X-Sum, X-User": `map["X-Sum":["1"]], <nil>`, "X-User, X-Sum, x_user": `map["X-Sum":["1"]], <nil>`} {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(r.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		head := ""
		if announced != "" {
			head = "Trailer: " + announced + "\r\n"
		}
		if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"+head+"\r\n1\r\nx\r\n0\r\nX-Sum: 1\r\nX-User: root\r\nx_user: root\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		if err != nil || string(b) != want {
			t.Errorf("announced %s: %d %s, %v, expected %s", announced, res.StatusCode, b, err, want)
		}
		_ = c.Close()
	}
}

// TestExposedFields: what tells upstreams who asks can't be sent by clients on any route.
func TestExposedFields(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	users(t, file, "ann")
	r := newRig(t, fmt.Sprintf(basicAuth, file)+upstreamOf("u", whoami(t))+`
[[route]]
name = "open"
path = "/open"
upstream = "u"
[[route]]
name = "optional"
path = "/optional"
upstream = "u"
auth.providers = ["users"]
auth.optional = true
authz.allow = ["subject:ann", "anonymous header:X-Free"]
`)
	for _, path := range []string{"/open", "/optional"} {
		if status, body, _ := r.as(t, "", path, "X-User", "root", "X-Free", "1"); status != 200 || body != "user=[]" {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	if status, body, _ := r.as(t, "ann", "/optional", "X-User", "root"); status != 200 || body != `user=["ann"]` {
		t.Errorf("%d %s", status, body)
	}
	if status, _, h := r.as(t, "", "/optional"); status != 401 || !strings.HasPrefix(h.Get("WWW-Authenticate"), `Basic realm="users"`) {
		t.Errorf("nobody, whom no rule allows: %d %v", status, h)
	}
}

// TestLimitsByIdentity: the key is known, whatever the order in which limits are named.
func TestLimitsByIdentity(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	users(t, file, "ann", "bob")
	r := newRig(t, fmt.Sprintf(basicAuth, file)+"[[rate_limit]]\nname = \"each\"\nrequests = 2\nper = \"1h\"\nkey = \"subject\"\n"+upstreamOf("u", whoami(t))+`
[[route]]
name = "own"
path = "/own"
upstream = "u"
auth.providers = ["users"]
[route.rate_limit]
use = ["each"]
requests = 3
per = "1h"
fields = "x-ratelimit"
[route.concurrency]
per_key = 1
key = "subject"
`)
	for n, want := range []int{200, 200, 429, 429} {
		if status, _, h := r.as(t, "ann", "/own"); status != want || n < 3 && h.Get("X-RateLimit-Remaining") != fmt.Sprint(2-n) {
			t.Errorf("request %d: %d %v", n, status, h)
		}
	}
	p := r.Policies()
	if len(p.Rates) != 2 || p.Rates[0].Name != "each" || p.Rates[0].Limited != 1 || p.Rates[1].Limited != 1 || p.Concurrency[0].Admitted != 2 {
		t.Errorf("%+v", p)
	}
}

// serveTLS serves the first listener over TLS that asks for certificates of an authority.
func serveTLS(t *testing.T, g *Gateway, c *config.Config, dir string, ca []byte) string {
	t.Helper()
	store, err := secure.Load([]secure.Files{{Cert: dir + "/cert", Key: dir + "/key"}}, false, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	tc, err := (&secure.Server{Store: store, ClientAuth: secure.ClientAuthRequest, ClientCA: ca, Common: secure.Common{MinVersion: tls.VersionTLS12, Now: time.Now}}).Config()
	if err != nil {
		t.Fatal(err)
	}
	s, err := g.Server(c, &c.Listeners[0], tc)
	if err != nil {
		t.Fatal(err)
	}
	addr, _ := servertest.Start(t, s, 0)
	return "https://" + addr
}

// TestMTLS: a client's certificate, verified by the listener, is who asks.
func TestMTLS(t *testing.T) {
	dir := t.TempDir()
	server, err := secure.Generate(secure.Request{Names: []string{"127.0.0.1"}, Valid: time.Hour, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	pair := func(names ...string) tls.Certificate {
		t.Helper()
		g, err := secure.Generate(secure.Request{Names: names, Client: true, Valid: time.Hour, Now: time.Now(), CA: server.CA, CAKey: server.CAKey})
		if err != nil {
			t.Fatal(err)
		}
		c, err := tls.X509KeyPair(g.Cert, g.Key)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for name, b := range map[string][]byte{"cert": server.Cert, "key": server.Key, "ca": server.CA} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := load(t, "tls = true\nhttp.check_host = false\n[[certificate]]\ncert_file = \""+dir+"/cert\"\nkey_file = \""+dir+"/key\"\n[tls]\nclient_auth = \"request\"\nclient_ca_file = \""+dir+"/ca\"\n"+
		"[[auth]]\nname = \"m\"\nkind = \"mtls\"\nsubject_from = \"dns\"\nallow = \"*.workers.example\"\nexpose = [\"X-User: {subject}\"]\n"+upstreamOf("u", whoami(t))+
		"[[route]]\nname = \"r\"\npath = \"/\"\nupstream = \"u\"\nauth.providers = [\"m\"]\nauthz.allow = [\"tls cert:a.*\"]\n")
	g := New(Options{Dial: dialNet})
	t.Cleanup(g.Close)
	(&rig{Gateway: g}).apply(t, c)
	url := serveTLS(t, g, c, dir, server.CA)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(server.CA)
	for _, one := range []struct {
		names  []string
		status int
		body   string
	}{{[]string{"a.workers.example"}, 200, `user=["a.workers.example"]`}, {[]string{"b.workers.example"}, 403, "forbidden"}, {[]string{"a.others.example"}, 401, "not known here"}, {nil, 401, "unauthenticated"}} {
		t.Run(strings.Join(one.names, ","), func(t *testing.T) {
			ct := &tls.Config{RootCAs: roots}
			if one.names != nil {
				ct.Certificates = []tls.Certificate{pair(one.names...)}
			}
			tr := &http.Transport{TLSClientConfig: ct, ForceAttemptHTTP2: true}
			defer tr.CloseIdleConnections()
			r := &rig{url: url, client: &http.Client{Transport: tr, Timeout: 10 * time.Second}}
			if status, body, _ := r.as(t, "", "/"); status != one.status || !strings.Contains(body, one.body) {
				t.Errorf("%d %s", status, body)
			}
		})
	}
}

// verdicts is an authorization server over gRPC: it denies what has "no" in its path.
type verdicts struct {
	authv3.UnimplementedAuthorizationServer
}

func (verdicts) Check(_ context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	if strings.Contains(r.GetAttributes().GetRequest().GetHttp().GetPath(), "no") {
		return &authv3.CheckResponse{Status: &status.Status{Code: 7}}, nil
	}
	return &authv3.CheckResponse{}, nil
}

func TestExternalGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	authv3.RegisterAuthorizationServer(s, verdicts{})
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() { s.Stop(); wg.Wait() })
	text := upstreamOf("u", backend(t, "u")) + "[[route]]\nname = \"r\"\npath_prefix = \"/\"\nupstream = \"u\"\nauthz.external = \"grpc://" + l.Addr().String() + "\"\n"
	r := newRig(t, text)
	for range 2 {
		if status, body, _ := r.get(t, "/yes"); status != 200 {
			t.Errorf("%d %s", status, body)
		}
		if status, _, _ := r.get(t, "/no"); status != 403 {
			t.Errorf("%d", status)
		}
		old := r.gen.Load().policy.externals["r"]
		r.apply(t, load(t, text))
		if r.gen.Load().policy.externals["r"] != old {
			t.Error("a connection that can stay was made again")
		}
	}
	s.Stop()
	if status, _, h := r.get(t, "/yes"); status != 503 || h.Get("Retry-After") == "" {
		t.Errorf("with the server down: %d", status)
	}
	r.apply(t, load(t, text+"authz.external_fail_open = true\n"))
	if status, _, _ := r.get(t, "/yes"); status != 200 {
		t.Errorf("with the server down, open: %d", status)
	}
}

// TestPoliciesThroughUpstream: who knows about tokens and permissions is asked through
// upstreams, so that an endpoint that is down does no harm, and goes on through what a
// reload puts in their place.
func TestPoliciesThroughUpstream(t *testing.T) {
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	down := dead.Addr().String()
	_ = dead.Close()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	const issuer = "http://issuer.test/t"
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "1", Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	var hosts sync.Map
	authority := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hosts.Store(r.Host, true)
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/t/.well-known/openid-configuration":
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":"http://issuer.test/keys"}`, issuer)
		case "/keys":
			_, _ = w.Write(set)
		case "/check":
			if strings.HasSuffix(r.Header.Get("X-Forwarded-Uri"), "/no") {
				w.WriteHeader(403)
			}
		default:
			fmt.Fprintf(w, `{"active":%v,"sub":"ann"}`, strings.HasPrefix(r.FormValue("token"), "opaque"))
		}
	}))
	t.Cleanup(authority.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	authv3.RegisterAuthorizationServer(s, verdicts{})
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() { s.Stop(); wg.Wait() })
	live := strings.TrimPrefix(authority.URL, "http://")
	const often = "retry.budget_per_second = 1000\n" // the test asks faster than others
	text := func(balance string) string {
		return "[[auth]]\nname = \"j\"\nkind = \"jwt\"\nany_audience = true\nissuer = \"" + issuer + "\"\nupstream = \"issuer\"\n" +
			"[[auth]]\nname = \"o\"\nkind = \"introspection\"\nany_audience = true\nurl = \"http://issuer.test/ask\"\nupstream = \"issuer\"\n" +
			upstreamOf("issuer", down, live) + often + "balance = \"" + balance + "\"\n" +
			upstreamOf("judges", down, l.Addr().String()) + often + "protocol = \"h2c\"\nbalance = \"" + balance + "\"\n" + `
[[route]]
name = "j"
path_prefix = "/j"
body = "x"
auth.providers = ["j"]
[[route]]
name = "o"
path_prefix = "/o"
body = "x"
auth.providers = ["o"]
[[route]]
name = "h"
path_prefix = "/h"
body = "x"
authz.external = "http://judge.test/check"
authz.external_upstream = "issuer"
[[route]]
name = "g"
path_prefix = "/g"
body = "x"
authz.external = "grpc://judge.test"
authz.external_upstream = "judges"
`
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", "1"))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign([]byte(fmt.Sprintf(`{"iss":%q,"sub":"ann","exp":%d}`, issuer, time.Now().Add(time.Hour).Unix())))
	if err != nil {
		t.Fatal(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, text("round_robin"))
	asked := 0
	ask := func(when string) {
		t.Helper()
		for range 4 { // each endpoint's turn comes
			for path, want := range map[string]int{"/j": 200, "/o": 200, "/h/yes": 200, "/h/no": 403, "/g/yes": 200, "/g/no": 403} {
				asked++
				bearer := map[string]string{"/j": token, "/o": fmt.Sprint("opaque", asked)}[path]
				if status, body, _ := r.as(t, "", path, "Authorization", "Bearer "+bearer); status != want {
					t.Errorf("%s: %s: %d %s", when, path, status, body)
				}
			}
		}
	}
	ask("at first")
	before := r.gen.Load()
	r.apply(t, load(t, text("least_request")))
	if after := r.gen.Load(); after.clusters["issuer"] == before.clusters["issuer"] || after.policy.auths["o"] != before.policy.auths["o"] {
		t.Error("the upstream was not made again, or what goes through it was")
	}
	ask("after a reload")
	for _, host := range []string{"issuer.test", "judge.test"} {
		if _, ok := hosts.Load(host); !ok {
			t.Errorf("nobody was asked as %s", host)
		}
	}
}

// TestIntrospectionConfig drives a token through the endpoint that the configuration names.
func TestIntrospectionConfig(t *testing.T) {
	authority := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		id, secret, _ := r.BasicAuth()
		fmt.Fprintf(w, `{"active":%v,"sub":"alice","scope":"a","tier":"gold"}`, r.FormValue("token") == "good" && id == "gw" && secret == "hush")
	}))
	t.Cleanup(authority.Close)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("hush\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, "[[auth]]\nname = \"o\"\nkind = \"introspection\"\nany_audience = true\nurl = \""+authority.URL+"\"\nclient_id = \"gw\"\nclient_secret_file = \""+secret+
		"\"\nrequire = [\"tier=silver\", \"tier=gold\"]\nquery = \"access_token\"\nstrip = true\n"+upstreamOf("u", backend(t, "b"))+
		"[[route]]\nname = \"r\"\npath_prefix = \"/\"\nupstream = \"u\"\nauth.providers = [\"o\"]\nauthz.allow = [\"scope:a\"]\n")
	for token, want := range map[string]int{"good": 200, "bad": 401} {
		if status, body, _ := r.get(t, "/x?access_token="+token); status != want {
			t.Errorf("%s: %d %s", token, status, body)
		}
		if status, body, _ := r.as(t, "", "/x", "Authorization", "Bearer "+token); status != want {
			t.Errorf("%s: %d %s", token, status, body)
		}
	}
}

func TestShedConfig(t *testing.T) {
	enter := make(chan struct{}, 64)
	leave := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { enter <- struct{}{}; <-leave }))
	t.Cleanup(slow.Close)
	var open sync.Once
	release := func() { open.Do(func() { close(leave) }) }
	t.Cleanup(release)
	r := newRig(t, "[[load_shedding]]\nname = \"s\"\nmin = 4\nmax = 4\ninitial = 4\n"+upstreamOf("u", strings.TrimPrefix(slow.URL, "http://"))+`
[[route]]
name = "r"
path_prefix = "/"
upstream = "u"
load_shedding.use = "s"
load_shedding.priority = "low"
load_shedding.priority_header = "X-Priority"
load_shedding.priority_from = ["127.0.0.0/8"]
`)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { r.as(t, "", "/") })
	}
	for range 2 {
		<-enter
	}
	if status, _, h := r.as(t, "", "/"); status != 503 || h.Get("Retry-After") == "" {
		t.Errorf("low beyond its part: %d", status)
	}
	wg.Go(func() {
		if status, _, _ := r.as(t, "", "/", "X-Priority", "critical"); status != 200 {
			t.Errorf("critical: %d", status)
		}
	})
	<-enter
	release()
	wg.Wait()
	if s := r.Policies().Shedders; len(s) != 1 || s[0].Shed[0] != 1 || s[0].Waiting != 0 {
		t.Errorf("%+v", s)
	}
}

func TestPolicyCheck(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	route := "[[route]]\nname = \"r\"\npath = \"/\"\nbody = \"x\"\n"
	for _, one := range []struct{ name, text, want string }{
		{"no file", fmt.Sprintf(basicAuth, dir+"/none"), `np.toml:8:1: [[auth]] "users": open ` + dir + `/none: no such file`},
		{"no users", fmt.Sprintf(basicAuth, empty), `np.toml:8:1: [[auth]] "users": ` + empty + `:1: no user`},
		{"no key set", "[[auth]]\nname = \"t\"\nkind = \"jwt\"\nany_audience = true\nfile = \"" + empty + "\"\n", `np.toml:9:1: [[auth]] "t": ` + empty + `: no JWK set`},
		{"no secret", "[[auth]]\nname = \"t\"\nkind = \"introspection\"\nany_audience = true\nurl = \"https://x/\"\nclient_id = \"a\"\nclient_secret_file = \"" + empty + "\"\n", `np.toml:11:1: auth.client_secret_file: `},
		{"expose", strings.Replace(fmt.Sprintf(basicAuth, empty), "{subject}", "{user}", 1), `np.toml:9:11: auth.expose: got "X-User: {user}", expected a field with one of {subject}`},
		{"expose host", strings.Replace(fmt.Sprintf(basicAuth, empty), "X-User", "Host", 1), `np.toml:9:1: auth.expose: field "Host" for an identity`},
		{"URL", "[[auth]]\nname = \"t\"\nkind = \"jwt\"\nany_audience = true\njwks_url = \"issuer\"\n", `np.toml:5:1: [[auth]] "t": URL of keys: "issuer", expected https://HOST/PATH`},
		{"rule", route + "authz.allow = [\"*\", \"grp:a\"]\n", `np.toml:9:21: route.authz.allow: "grp:a", character 1: condition "grp"`},
		{"deny alone", route + "authz.deny = [\"group:a\"]\n", `np.toml:9:15: route.authz.deny: rules that deny and none that allows`},
		{"listener's rule", "[listener.authz]\nallow = [\"path:/\"]\n", `np.toml:6:10: listener.authz.allow: "path:/", character 1: condition "path", expected one of *, alpn, cert`},
		{"listener's rule about a name", "[listener.authz]\nallow = [\"client:10.0.0.0/8\", \"sni:a\"]\n", `np.toml:6:31: listener.authz.allow: "sni:a", character 1: sni: the listener has no TLS to tell it, expected tls = true with it`},
		{"listener's rule about a certificate", "[listener.authz]\nallow = [\"*\"]\ndeny = [\"!cert:a\"]\n", `np.toml:7:9: listener.authz.deny: "!cert:a", character 1: cert: clients show no certificates here`},
		{"external", route + "authz.external = \"ldap://h\"\n", `np.toml:9:1: route.authz.external: got "ldap://h", expected a URL with http, https, grpc or grpcs`},
		{"external headers", route + "authz.external = \"http://h/\"\nauthz.external_headers = [\"Content-Length\"]\n", `field "Content-Length" can't be sent along`},
		{"limit key", route + "rate_limit.requests = 1\nrate_limit.key = [\"client\", \"ip\"]\n", `np.toml:10:29: route.rate_limit.key: key "ip": expected client, subject`},
		{"limit rate", "[[rate_limit]]\nname = \"a\"\nrequests = 1000000000\nper = \"1ms\"\n", `rate_limit: 1000000000 requests per 1ms, expected at most 1000000000 a second`},
		{"concurrency key", route + "concurrency.per_key = 1\nconcurrency.key = \"who\"\n", `np.toml:10:19: route.concurrency.key: key "who"`},
	} {
		t.Run(one.name, func(t *testing.T) {
			err := Check(load(t, one.text))
			if err == nil || !strings.Contains(err.Error(), one.want) {
				t.Errorf("%v\nwant %s", err, one.want)
			}
		})
	}
}

// TestRefusalsForPages: what limits and providers refuse a page can read, and preflight
// requests are limited and need no credentials.
func TestRefusalsForPages(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	users(t, file, "ann")
	r := newRig(t, fmt.Sprintf(basicAuth, file)+upstreamOf("u", whoami(t))+`
[[route]]
name = "limited"
path = "/limited"
upstream = "u"
cors.origins = ["https://page.example"]
rate_limit.requests = 2
rate_limit.per = "1h"
[[route]]
name = "private"
path = "/private"
upstream = "u"
cors.origins = ["https://page.example"]
cors.methods = ["PUT"]
auth.providers = ["users"]
authz.allow = ["subject:bob"]
`)
	const page = "https://page.example"
	for _, one := range []struct {
		method, path, user, asked string
		status                    int
		readable                  bool
	}{
		{"GET", "/limited", "", "", 200, true},
		{"OPTIONS", "/limited", "", "GET", 204, true},
		{"GET", "/limited", "", "", 429, true},
		{"OPTIONS", "/limited", "", "GET", 429, false},
		{"GET", "/private", "", "", 401, true},
		{"GET", "/private", "ann", "", 403, true},
		{"OPTIONS", "/private", "", "PUT", 204, true},
	} {
		q, err := http.NewRequestWithContext(t.Context(), one.method, r.url+one.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Origin", page)
		if one.asked != "" {
			q.Header.Set("Access-Control-Request-Method", one.asked)
		}
		if one.user != "" {
			q.SetBasicAuth(one.user, "secret")
		}
		res, err := r.client.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != one.status || (res.Header.Get("Access-Control-Allow-Origin") == page) != one.readable {
			t.Errorf("%s %s of %q: %d %v", one.method, one.path, one.user, res.StatusCode, res.Header)
		}
	}
}

// TestSplitManners: of a route with several upstreams each gets requests as it says itself.
func TestSplitManners(t *testing.T) {
	told := func(name string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s xff=%v forwarded=%v via=%q", name, r.Header.Get("X-Forwarded-For") != "", r.Header.Get("Forwarded") != "", r.Header.Get("Via"))
		}))
		t.Cleanup(s.Close)
		return strings.TrimPrefix(s.URL, "http://")
	}
	r := newRig(t, upstreamOf("a", told("a"))+"forwarded = \"rfc7239\"\nvia_name = \"edge\"\n"+upstreamOf("b", told("b"))+
		"[[route]]\nname = \"s\"\npath_prefix = \"/\"\nsplit = [\"a=1\", \"b=1\"]\n")
	got := map[string]bool{}
	for range 1000 { // half of them each, at random
		_, body, _ := r.get(t, "/")
		if got[body] = true; len(got) == 2 {
			break
		}
	}
	if !got[`a xff=false forwarded=true via="1.1 edge"`] || !got[`b xff=true forwarded=false via=""`] || len(got) != 2 {
		t.Errorf("%v", got)
	}
}
