package tracing

import "time"

type kind uint8

const (
	kindServer kind = iota
	kindClient
)

// maxAttributes bounds a span; ours have fewer.
const maxAttributes = 20

// maxText bounds a text that a client chose.
const maxText = 1024

// Span is one recorded piece of work. A nil Span takes everything and does nothing.
type Span struct {
	t      *Tracer
	ctx    Context
	parent [8]byte
	kind   kind
	linked bool
	link   Context

	name, detail string // the span's name is both, with a space between
	start, end   time.Time
	outcome      Outcome
	attrs        [maxAttributes]attribute
	n            int
}

type attribute struct {
	key  string
	text string
	num  int64
	is   bool // a number
}

// Outcome is how a span ended.
type Outcome struct {
	Failed  bool   // whoever did this work is to blame
	Message string // with Failed: what went wrong
}

func (t *Tracer) begin(c *Context, parent [8]byte, now time.Time) *Span {
	s := t.spans.Get().(*Span)
	s.t, s.ctx, s.parent, s.start = t, *c, parent, now
	return s
}

// Name sets the span's name: a word such as a method, and what else tells it from others
// without telling each apart, such as a route's name.
func (s *Span) Name(name, detail string) {
	if s != nil {
		s.name, s.detail = name, detail
	}
}

// Text adds an attribute, unless value is empty. key is a name of OpenTelemetry's
// conventions or begins with "np.".
func (s *Span) Text(key, value string) {
	if s != nil && value != "" && s.n < maxAttributes {
		s.attrs[s.n] = attribute{key: key, text: value}
		s.n++
	}
}

// Number adds an attribute.
func (s *Span) Number(key string, value int64) {
	if s != nil && s.n < maxAttributes {
		s.attrs[s.n] = attribute{key: key, num: value, is: true}
		s.n++
	}
}

// End ends the span and queues it. The span must not be used any more.
func (s *Span) End(now time.Time, o *Outcome) {
	if s == nil {
		return
	}
	s.end, s.outcome = now, *o
	t := s.t
	select {
	case <-t.stop:
	default:
		select {
		case t.queue <- s:
			return
		default:
		}
	}
	t.dropped.Add(1)
	t.free(s)
}

func (t *Tracer) free(s *Span) {
	*s = Span{} // texts of requests must not be held
	t.spans.Put(s)
}
