package filter

import (
	"net/http"
	"strconv"
	"strings"
)

// MaxRespond is the largest fixed body, in bytes.
const MaxRespond = 1 << 20

// RespondOptions is an answer that is always the same.
type RespondOptions struct {
	Status int    // 0: 200
	Type   string // of the body; "" with a body: text/plain in UTF-8
	Body   string
}

// NewRespond makes the handler that answers so, whatever is asked.
func NewRespond(o RespondOptions) (http.Handler, error) {
	var c checker
	if o.Status == 0 {
		o.Status = http.StatusOK
	}
	if o.Status < 200 || o.Status > 599 {
		c.bad("status", "%d: expected 200 to 599", o.Status)
	}
	empty := o.Status == http.StatusNoContent || o.Status == http.StatusNotModified || o.Status == http.StatusResetContent
	if empty && o.Body != "" {
		c.bad("body", "expected none: answers with status %d have no body", o.Status)
	}
	if len(o.Body) > MaxRespond {
		c.bad("body", "%d bytes: expected at most %d; a file is served by a route for files", len(o.Body), MaxRespond)
	}
	if o.Type != "" && (o.Body == "" || !validValue(o.Type) || !strings.Contains(o.Type, "/")) {
		c.bad("type", `%q: expected a media type such as "text/html; charset=utf-8", for an answer with a body`, o.Type)
	}
	if err := c.err(); err != nil {
		return nil, err
	}
	if o.Type == "" && o.Body != "" {
		o.Type = "text/plain; charset=utf-8"
	}
	body, length := []byte(o.Body), strconv.Itoa(len(o.Body))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		if !empty {
			h["Content-Length"] = []string{length}
		}
		if o.Type != "" {
			h["Content-Type"] = []string{o.Type}
			h["X-Content-Type-Options"] = []string{"nosniff"}
		}
		w.WriteHeader(o.Status)
		if r.Method != http.MethodHead && len(body) > 0 {
			_, _ = w.Write(body) // the client is gone if it fails
		}
	}), nil
}
