package exchange

import "context"

// Slot is room for an exchange in a context that is made for a request: what embeds it and
// answers Value by Held need not be wrapped to carry one.
type Slot struct{ x *Exchange }

// HoldExchange puts an exchange there, before anything is derived from the context. False:
// there is one.
func (s *Slot) HoldExchange(x *Exchange) bool {
	if s.x != nil {
		return false
	}
	s.x = x
	return true
}

// Held returns the exchange if that is what k asks for, else nil.
func (s *Slot) Held(k any) any {
	if k == any(key{}) && s.x != nil {
		return s.x
	}
	return nil
}

// holder is a context with room for an exchange.
type holder interface {
	context.Context
	HoldExchange(x *Exchange) bool
}
