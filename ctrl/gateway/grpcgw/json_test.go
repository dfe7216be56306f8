package grpcgw

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

func TestJSON(t *testing.T) {
	r := newRig(t, nil)
	for _, one := range []struct {
		name, method, path, body string
		status                   int
		want                     string // in the answer
	}{
		{"variable of several segments", "GET", "/v1/shelves/a%2Fb/items/7", "", 200, `{"name":"an item","title":"{\"name\":\"shelves/a%2Fb/items/7\"}","kind":"KIND_TOY"}`},
		{"additional binding", "GET", "/v1/items/x%20y", "", 200, `\"name\":\"xy\"`},
		{"query", "GET", "/v1/items/x?mask=name,title", "", 200, `\"mask\":\"name,title\"`},
		{"query fields of all kinds", "GET", "/v1/shelves/1/items?pageSize=3&kinds=KIND_BOOK&kinds=2&at_most.currency=EUR&atMost.units=-5&since=2026-01-02T03:04:05Z&age=1.5s&sold=true&broken=true&weight=2.5&token=_-8%3D&by=name", "", 200,
			`[{"name":"one","title":"{\"parent\":\"shelves/1\",\"pageSize\":3,\"kinds\":[\"KIND_BOOK\",\"KIND_TOY\"],\"atMost\":{\"currency\":\"EUR\",\"units\":\"-5\"},\"since\":\"2026-01-02T03:04:05Z\",\"age\":\"1.500s\",\"sold\":true,\"broken\":true,\"weight\":2.5,\"token\":\"/+8=\",\"by\":\"name\"}"}]`},
		{"body is a field", "POST", "/v1/shelves/9/items?request_id=r", `{"title":"T","kind":"KIND_BOOK","labels":{"a":"b"}}`, 200, `\"parent\":\"shelves/9\",\"item\":{\"title\":\"T\",\"kind\":\"KIND_BOOK\",\"labels\":{\"a\":\"b\"}},\"requestId\":\"r\"`},
		{"custom verb", "REPRICE", "/v1/prices:set", `{"units":"12"}`, 200, `{"units":"12"}`},
		{"delete", "DELETE", "/v1/shelves/1/items/2", "", 200, `{}`},
		{"auto binding", "POST", "/np.shop.v1.Shop/Plain", `{"text":"t"}`, 200, `{"text":"t"}`},
		{"raw answer", "GET", "/v1/files/a/b%2fc", "", 200, `file a/b%2fc`},
		{"raw body", "PUT", "/v1/files/a", "not json", 200, `\"content\":{\"contentType\":\"application/x-any\",\"data\":\"bm90IGpzb24=\"}`},
		{"head", "HEAD", "/v1/items/x", "", 200, ""},

		{"unknown path", "GET", "/v2/items/x", "", 404, "no_route"},
		{"empty segment", "GET", "/v1/shelves//items/7", "", 404, "no_route"},
		{"wrong method", "PATCH", "/v1/items/x", "", 405, "method_not_allowed"},
		{"unknown query", "GET", "/v1/items/x?nome=1", "", 400, `no field \"nome\"`},
		{"query of the path's field", "GET", "/v1/items/x?name=1", "", 400, `is set by the path`},
		{"query of a message", "GET", "/v1/shelves/1/items?at_most=1", "", 400, `name one of its fields`},
		{"query not a number", "GET", "/v1/shelves/1/items?page_size=0x10", "", 400, `expected a number of 32 bits`},
		{"query over", "GET", "/v1/shelves/1/items?page_size=2147483648", "", 400, `expected a number of 32 bits`},
		{"both of a oneof", "GET", "/v1/shelves/1/items?by=a&reverse=true", "", 400, `can't both be set`},
		{"query beside a whole body", "REPRICE", "/v1/prices:set?units=3", `{}`, 400, `every field comes from the body`},
		{"body of a method without", "DELETE", "/v1/shelves/1/items/2", "{}", 400, "takes no body"},
		{"no json", "POST", "/v1/shelves/9/items", `{"title":`, 400, "not JSON"},
		{"two values", "POST", "/v1/shelves/9/items", `{},"x":1`, 400, "not JSON"},
		{"wrong type", "POST", "/v1/shelves/9/items", `{"title":7}`, 400, "is no np.shop.v1.CreateItemRequest"},
		{"unknown field", "POST", "/v1/shelves/9/items", `{"tittle":"x"}`, 400, "tittle"},
		{"deep", "POST", "/v1/shelves/9/items", `{"extra":` + strings.Repeat(`[`, 5000) + strings.Repeat(`]`, 5000) + `}`, 400, "INVALID"},
		{"bad escape", "GET", "/v1/items/%ff", "", 400, "UTF-8"},
	} {
		t.Run(one.name, func(t *testing.T) {
			kind := "application/json"
			if one.name == "raw body" {
				kind = "application/x-any"
			}
			resp, body := r.do(one.method, one.path, one.body, "Content-Type", kind, "User", "u")
			if resp.StatusCode != one.status {
				t.Fatalf("%d, %s", resp.StatusCode, body)
			}
			if one.want != "INVALID" && !strings.Contains(body, one.want) {
				t.Errorf("%s", body)
			}
			if one.status == 200 && (resp.Header.Get("Shop-User") != "u" || resp.Header.Get("Shop-Cost") != "3" || resp.Header.Get("Grpc-Status") != "") {
				t.Errorf("metadata: %v", resp.Header)
			}
			if one.status == 400 {
				var st struct {
					Code    int
					Message string
				}
				if err := json.Unmarshal([]byte(body), &st); err != nil || st.Code != exchange.GRPCInvalidArgument || r.last.Reason != exchange.BadRequest {
					t.Errorf("%s: %v, reason %v", body, err, r.last.Reason)
				}
			}
		})
	}
}

func TestJSONUnsupportedMedia(t *testing.T) {
	r := newRig(t, nil)
	if resp, body := r.do("POST", "/v1/notes:send", "a=b", "Content-Type", "application/x-www-form-urlencoded"); resp.StatusCode != 415 {
		t.Errorf("%d, %s", resp.StatusCode, body)
	}
	if resp, body := r.do("GET", "/v1/shelves/1/items:watch", "", "Accept", "text/html, application/json;q=0"); resp.StatusCode != 406 {
		t.Errorf("%d, %s", resp.StatusCode, body)
	}
	if resp, body := r.do("POST", "/v1/notes:send", "\x1f\x8b", "Content-Type", "application/json", "Content-Encoding", "gzip"); resp.StatusCode != 415 || resp.Header.Get("Accept-Encoding") != "identity" {
		t.Errorf("encoded: %d %s", resp.StatusCode, body)
	}
	if resp, body := r.do("POST", "/v1/notes:send", "{}", "Content-Type", "application/json", "Content-Encoding", "Identity"); resp.StatusCode != 200 {
		t.Errorf("identity: %d %s", resp.StatusCode, body)
	}
}

func TestJSONErrors(t *testing.T) {
	r := newRig(t, nil)
	for code, want := range []int{200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401} {
		if code == 0 {
			continue
		}
		body, _ := json.Marshal(map[string]any{"text": "why: 100 % ü", "number": code})
		resp, got := r.do("POST", "/v1/fail", string(body), "Content-Type", "application/json")
		var st struct {
			Code    int
			Message string
			Details []map[string]any
		}
		if err := json.Unmarshal([]byte(got), &st); err != nil || resp.StatusCode != want || st.Code != code || st.Message != "why: 100 % ü" {
			t.Errorf("code %d: %d, %s: %v", code, resp.StatusCode, got, err)
			continue
		}
		if len(st.Details) != 1 || st.Details[0]["reason"] != "BECAUSE" || st.Details[0]["@type"] != "type.googleapis.com/google.rpc.ErrorInfo" {
			t.Errorf("code %d: details %v", code, st.Details)
		}
	}
}

func TestJSONStreams(t *testing.T) {
	r := newRig(t, nil)
	const path = "/v1/shelves/1/items:watch?page_size="
	for _, one := range []struct{ name, accept, query, kind, want string }{
		{"lines", "", "2", "application/x-ndjson", "{\"name\":\"item 0\"}\n{\"name\":\"item 1\"}\n"},
		{"lines failing", "*/*", "1&by=fail", "application/x-ndjson", "{\"name\":\"item 0\"}\n{\"error\":{\"code\":15,\"message\":\"100 % lost\",\"details\":[]}}\n"},
		{"events", "text/event-stream", "2", "text/event-stream", "data: {\"name\":\"item 0\"}\n\ndata: {\"name\":\"item 1\"}\n\n"},
		{"events failing", "text/event-stream", "1&by=fail", "text/event-stream", "data: {\"name\":\"item 0\"}\n\nevent: error\ndata: {\"error\":{\"code\":15,\"message\":\"100 % lost\",\"details\":[]}}\n\n"},
		{"array", "text/html, application/json;q=0.5", "2", "application/json", `[{"name":"item 0"},{"name":"item 1"}]`},
		{"array failing", "application/json", "1&by=fail", "application/json", `[{"name":"item 0"},{"error":{"code":15,"message":"100 % lost","details":[]}}]`},
		{"array of none", "application/json", "0", "application/json", `[]`},
		{"none", "", "0", "application/x-ndjson", ``},
	} {
		t.Run(one.name, func(t *testing.T) {
			resp, body := r.do("GET", path+one.query, "", "Accept", one.accept)
			if resp.StatusCode != 200 || body != one.want || resp.Header.Get("Content-Type") != one.kind {
				t.Errorf("%d %s: %q", resp.StatusCode, resp.Header.Get("Content-Type"), body)
			}
			status := "0"
			if strings.Contains(one.query, "fail") {
				status = "15"
			}
			if resp.Trailer.Get("Grpc-Status") != status {
				t.Errorf("trailers %v", resp.Trailer)
			}
		})
	}
	if resp, body := r.do("GET", path+"0&by=fail", ""); resp.StatusCode != 500 || !strings.HasPrefix(body, `{"code":15,`) {
		t.Errorf("failure before the first message: %d, %s", resp.StatusCode, body)
	}
}

// TestJSONStreamIsLive reads messages of a stream that does not end, and then leaves.
func TestJSONStreamIsLive(t *testing.T) {
	r := newRig(t, nil)
	req, err := http.NewRequestWithContext(t.Context(), "GET", r.front.URL+"/v1/shelves/1/items:watch?page_size=3&by=hang", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(resp.Body)
	for i := range 3 {
		if !lines.Scan() || !strings.Contains(lines.Text(), "item") {
			t.Fatalf("line %d: %q, %v", i, lines.Text(), lines.Err())
		}
	}
	_ = resp.Body.Close()
	<-(<-r.asked).Done() // the backend learns of it
}

func TestJSONUpload(t *testing.T) {
	r := newRig(t, nil)
	for _, one := range []struct {
		name, body string
		status     int
		want       string
	}{
		{"array", `[{"text":"a"},{"text":"b"}]`, 200, `{"count":2,"texts":["a","b"]}`},
		{"empty array", ` [ ] `, 200, `{"texts":[""]}`},
		{"lines", "{\"text\":\"a\"}\n{\"text\":\"b\"}\n{\"text\":\"c\"}\n", 200, `{"count":3,"texts":["a","b","c"]}`},
		{"nothing", "", 200, `{"texts":[""]}`},
		{"cut", `[{"text":"a"}`, 400, "not JSON"},
		{"bad in the middle", `[{"text":"a"},{"text":7}]`, 400, "is no np.shop.v1.Note"},
		{"more behind", `[{"text":"a"}] {}`, 400, "follows the array"},
		{"too large", `[{"text":"` + strings.Repeat("x", defaultMessage+1) + `"}]`, 413, "over the size limit"},
	} {
		t.Run(one.name, func(t *testing.T) {
			resp, body := r.do("POST", "/v1/notes:send", one.body, "Content-Type", "application/json")
			if resp.StatusCode != one.status || !strings.Contains(body, one.want) {
				t.Errorf("%d, %s", resp.StatusCode, body)
			}
		})
	}
}

// TestJSONChat sends each message after the answer to the one before.
func TestJSONChat(t *testing.T) {
	r := newRig(t, nil)
	for name, c := range map[string]*http.Client{"h2": r.client2, "http/1.1": r.client} {
		t.Run(name, func(t *testing.T) {
			in, out := io.Pipe()
			defer func() { _ = out.Close() }()
			req, err := http.NewRequestWithContext(t.Context(), "POST", r.front.URL+"/v1/notes:chat", in)
			if err != nil {
				t.Fatal(err)
			}
			go func() { _, _ = io.WriteString(out, `{"text":"first"}`+"\n") }()
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			lines := bufio.NewScanner(resp.Body)
			for _, next := range []string{"second", "third", ""} {
				if !lines.Scan() || !strings.Contains(lines.Text(), "re: ") {
					t.Fatalf("%q, %v", lines.Text(), lines.Err())
				}
				if next == "" {
					_ = out.Close()
				} else if _, err := io.WriteString(out, `{"text":"`+next+`"}`+"\n"); err != nil {
					t.Fatal(err)
				}
			}
			if lines.Scan() || lines.Err() != nil {
				t.Errorf("%q, %v", lines.Text(), lines.Err())
			}
		})
	}
}

func TestJSONOptions(t *testing.T) {
	r := newRig(t, func(o *Options, _ *rig) {
		o.JSONOptions = JSONOptions{IgnoreUnknown: true, IgnoreQuery: []string{"*"}, EmitDefaults: true, ProtoNames: true, EnumNumbers: true, Stream: StreamArray}
		o.PassUnmatched = true
	})
	if resp, body := r.do("POST", "/np.shop.v1.Shop/Plain?x=1", `{"text":"t","more":{}}`, "Content-Type", "application/json"); resp.StatusCode != 200 || body != `{"text":"t","number":0}` {
		t.Errorf("%d, %s", resp.StatusCode, body)
	}
	if _, body := r.do("GET", "/v1/items/x", ""); !strings.Contains(body, `"kind":2`) || !strings.Contains(body, `"made":null`) {
		t.Errorf("%s", body)
	}
	if _, body := r.do("GET", "/v1/shelves/1/items:watch", ""); body != "[]" {
		t.Errorf("%s", body)
	}
	if resp, _ := r.do("GET", "/elsewhere", ""); resp.StatusCode == 404 && r.last.Reason == exchange.NoRoute {
		t.Error("what no binding matches was refused")
	}
}
