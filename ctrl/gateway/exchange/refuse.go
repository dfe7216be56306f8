package exchange

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// problem is a problem document (RFC 9457 §3.1).
type problem struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail,omitempty"`
	Reason    string `json:"reason"`
	RequestID string `json:"request_id,omitempty"`
}

// Refuse answers a request in the gateway's own name. public is what the client may know
// beyond the reason's title, "" nothing. Fields that the caller set before (Retry-After,
// WWW-Authenticate, Allow) are sent with it; those of a body are replaced. Nothing may
// have been written to w before. For ClientGone nothing is sent: there is nobody.
func Refuse(w http.ResponseWriter, r *http.Request, why Reason, public string) {
	x := From(r.Context())
	x.Fail(why)
	if why == ClientGone {
		x.Status = StatusClientGone
		return
	}
	h := w.Header()
	for _, name := range [...]string{"Content-Length", "Content-Encoding", "Content-Range", "Etag", "Last-Modified", "Trailer", "Transfer-Encoding"} {
		h.Del(name)
	}
	h.Set("Cache-Control", "no-store")
	if x.ID != "" {
		h.Set("X-Request-Id", x.ID)
	}
	if IsGRPC(r) {
		refuseGRPC(w, why, public)
		return
	}
	status := why.Status()
	body, err := json.Marshal(problem{Type: "about:blank", Title: why.Title(), Status: status, Detail: public, Reason: why.String(), RequestID: x.ID})
	if err != nil { // strings and a number: it can't fail
		panic(err)
	}
	body = append(body, '\n')
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // the client is gone if it fails
	}
}

// refuseGRPC sends the status as the header's fields, with no body and no trailer: the
// protocol's answer of trailers alone.
func refuseGRPC(w http.ResponseWriter, why Reason, public string) {
	h := w.Header()
	message := why.Title()
	if public != "" {
		message += ": " + public
	}
	h.Set("Content-Type", "application/grpc")
	h.Set("Grpc-Status", strconv.Itoa(why.GRPC()))
	h.Set("Grpc-Message", percentEncode(message))
	w.WriteHeader(http.StatusOK)
}

// IsGRPC says whether a request is gRPC as HTTP/2 carries it; gRPC-Web is not.
func IsGRPC(r *http.Request) bool {
	t := r.Header.Get("Content-Type")
	rest, ok := strings.CutPrefix(t, "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// percentEncode writes a message as gRPC's Grpc-Message wants it: printing ASCII but for
// the percent sign, all else as %XX of its UTF-8.
func percentEncode(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c >= ' ' && c <= '~' && c != '%' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
