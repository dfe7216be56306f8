package discovery

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/upstream"
)

// TestOpen: what each text makes.
func TestOpen(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"dns:///api.example:80": "*discovery.DNS Name=api.example Port=80 TTLMin=5s TTLMax=5m0s Timeout=2s Empty=3",
		"dns://198.18.0.1,[2001:db8::1]:5353/a:1?family=6&ttl_min=1s&ttl_max=2s&timeout=3s&empty=keep": "*discovery.DNS Name=a Port=1 Family=2 Resolvers=[198.18.0.1:53 [2001:db8::1]:5353] TTLMin=1s TTLMax=2s Timeout=3s Empty=-1",
		"dns://2001:db8::1/a:1?empty=7":                                              "*discovery.DNS Name=a Port=1 Resolvers=[[2001:db8::1]:53] TTLMin=5s TTLMax=5m0s Timeout=2s Empty=7",
		"srv:///_http._tcp.api.example?family=any":                                   "*discovery.DNS Name=_http._tcp.api.example SRV=true TTLMin=5s TTLMax=5m0s Timeout=2s Empty=3",
		"etcd://a:2379,b:2379/services/api":                                          "*discovery.Etcd Addresses=[a:2379 b:2379] Prefix=/services/api/ Check=10s Timeout=5s",
		"etcd://a:2379?prefix=x&user=u&password_file=/p&tls=yes&empty=keep&check=1s": "*discovery.Etcd Addresses=[a:2379] Prefix=x TLS=&{   } User=u PasswordFile=/p KeepLast=true Check=1s Timeout=5s",
		"etcd://a:2379/x/?ca=/ca&cert=/c&key=/k&server_name=n":                       "*discovery.Etcd Addresses=[a:2379] Prefix=/x/ TLS=&{/ca /c /k n} Check=10s Timeout=5s",
		"consul://a:8500/web?tag=x&tag=y&dc=d&token=/t&warning=yes&wait=1m":          "*discovery.Consul Address=a:8500 TokenFile=/t Service=web Tags=[x y] Datacenter=d Warning=true Wait=1m0s Pause=200ms",
		"kubernetes:///shop/web:http":                                                "*discovery.Kubernetes Namespace=shop Service=web Port=http Watch=5m0s Account=/var/run/secrets/kubernetes.io/serviceaccount",
		"kubernetes://a:6443/shop/web?token=/t":                                      "*discovery.Kubernetes Address=a:6443 TLS=&{   } TokenFile=/t Namespace=shop Service=web Watch=5m0s Account=/var/run/secrets/kubernetes.io/serviceaccount",
		"kubernetes://a:8001/shop/web:80?tls=no&family=4":                            "*discovery.Kubernetes Address=a:8001 Namespace=shop Service=web Port=80 Family=1 Watch=5m0s Account=/var/run/secrets/kubernetes.io/serviceaccount",
		"file:/etc/np/api?every=2s":                                                  "*upstream.File Path=/etc/np/api Every=2s",
		"file:///etc/np/api":                                                         "*upstream.File Path=/etc/np/api",
	} {
		s, err := Open(text, Options{})
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := describe(s); got != want {
			t.Errorf("%s:\n got %s\nwant %s", text, got, want)
		}
	}
}

// describe writes the exported fields that are set.
func describe(s upstream.Source) string {
	v := reflect.ValueOf(s).Elem()
	out := fmt.Sprintf("%T", s)
	for i := range v.NumField() {
		if f := v.Field(i); v.Type().Field(i).IsExported() && v.Type().Field(i).Name != "ResolvConf" && v.Type().Field(i).Name != "Hosts" && !f.IsZero() && f.Kind() != reflect.Func && f.Kind() != reflect.Interface {
			out += fmt.Sprintf(" %s=%v", v.Type().Field(i).Name, f.Interface())
		}
	}
	return out
}

// TestOpenWrong: each mistake is told with what was expected.
func TestOpenWrong(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                     "expected SCHEME:",
		"api.example":                          "expected SCHEME:",
		"http://a":                             `scheme "http": expected dns, srv, etcd, consul, kubernetes or file`,
		"dns:api:80":                           "expected dns:///NAME:PORT",
		"dns:///api":                           `"api": expected NAME:PORT`,
		"dns:///api:0":                         "with a port from 1 to 65535",
		"dns:///198.18.0.1:80":                 "an address needs no DNS",
		"dns://resolver/api:80":                `resolver "resolver": expected ADDRESS or ADDRESS:PORT`,
		"dns:///api:80?ttl=5s":                 "ttl: unknown key, expected empty, family, timeout, ttl_max, ttl_min",
		"dns:///api:80?family=5":               "family=5: expected any or 4 or 6",
		"dns:///api:80?ttl_min=x":              "ttl_min=x: expected a time such as 500ms",
		"dns:///api:80?ttl_min=1s&ttl_min=2s":  "ttl_min=2s: expected it once",
		"dns:///api:80?empty=0":                "empty=0: expected keep, or how many",
		"dns:///api:80?ttl_min=9m&ttl_max=1m":  "expected 1ms ≤ ttl_min ≤ ttl_max",
		"dns:///api:80?%zz":                    "after the ?",
		"srv:///a/b":                           "expected srv:///_SERVICE._tcp.NAME",
		"etcd:///x":                            "expected etcd://HOST:PORT",
		"etcd://a/x":                           `address "a": expected HOST:PORT`,
		"etcd://a:1":                           "or prefix=PREFIX",
		"etcd://a:1/x?prefix=y":                "not both",
		"etcd://a:1/x?cert=/c":                 "cert and key together",
		"etcd://a:1/x?tls=no&ca=/c":            "tls=no: expected it without ca",
		"etcd://a:1/x?user=u":                  "expected a user and a file of its password",
		"consul://a:1":                         "expected consul://HOST:PORT/SERVICE",
		"consul://a:1,b:1/web":                 "expected consul://HOST:PORT/SERVICE",
		"consul://a:1/web?wait=1h":             "expected 1ms to 10m",
		"consul://a:1/web?token=":              "token=: expected a value",
		"kubernetes:///web":                    "expected kubernetes:///NAMESPACE/SERVICE:PORT",
		"kubernetes:///x/web:no_port":          "expected a port's name or number",
		"kubernetes://a:1/x/w?tls=no&token=/t": "everybody on the way can read the token",
		"file:relative":                        "expected file:/PATH",
		"file:/a b":                            "without blanks",
		"file:/a?every=1us":                    "at least 1ms",
	} {
		if err := Check(text); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "source ") {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// TestTidy: lists are in order, once each, and bounded.
func TestTidy(t *testing.T) {
	t.Parallel()
	var specs []upstream.Spec
	for i := range upstream.MaxEndpoints + 5 {
		a := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 80).String()
		specs = append(specs, upstream.Spec{Address: a, Weight: 1}, upstream.Spec{Address: a, Weight: 2})
	}
	got, err := tidy(specs)
	if len(got) != upstream.MaxEndpoints || err == nil || !strings.Contains(err.Error(), "10005 endpoints: expected at most 10000") {
		t.Errorf("%d endpoints, %v", len(got), err)
	}
	if got[0].Weight != 1 || got[0].Address >= got[1].Address {
		t.Errorf("%v", got[:2])
	}
	b := backoff{min: time.Second, max: 10 * time.Second}
	for i, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 10 * time.Second, 10 * time.Second} {
		if d := b.next(uint64(i) * 7919e6); d > want || d < want/2 {
			t.Errorf("wait %d: %v, want up to %v", i, d, want)
		}
	}
}

// FuzzTexts: what operators and the system's files say makes a source, or an error.
func FuzzTexts(f *testing.F) {
	for _, s := range []string{"dns://198.18.0.1,[::1]:53/a.b:80?family=4&empty=keep", "srv:///_x._tcp.a?ttl_min=1s", "etcd://a:1,b:2/x%2Fy?tls=yes&ca=/c", "etcd://a:1?prefix=%00",
		"consul://a:1/w%20x?tag=a&tag=b", "kubernetes:////w:http", "kubernetes://[::1]:6443/n/s?tls=no", "file:///x?every=1s", "198.18.0.1 api.test # x\n::1 localhost API.test."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Open(text, Options{})
		if (s == nil) == (err == nil) {
			t.Fatalf("%v, %v", s, err)
		}
		for _, a := range readHosts(strings.NewReader(text), "api.test") {
			if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() {
				t.Fatalf("address %v", a)
			}
		}
	})
}
