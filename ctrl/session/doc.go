// Package session owns the control plane's side of every NPRO connection: it
// drives the handshake, installs keys into the core and wipes them here, puts
// messages of several frames together, gives them to handlers, sends what they
// answer, and returns credit as they consume.
//
// # Goroutines
//
// The reader of each core ([events.Reader], shared with pipes when Config.Events
// is set) brings events, and runs inline handlers on bodies in place. A few goroutines do the arithmetic of handshakes. Handlers that may
// block run on at most Config.Workers goroutines; byte streams have one each,
// at most Config.StreamHandlers. All end before [Manager.Run] returns.
//
// # Bounds
//
// Everything a peer can make us hold has one: handshakes in flight
// (HandshakesInFlight), requests with handlers per connection (Backpressure),
// messages waiting or being put together (ConnMemory, MessageMemory), answers
// handed to the core (sendConn, sendStream), bytes of a byte stream not read
// (its window). A request's credit returns when its handler is done, so a
// connection whose handlers are slow stops by itself.
//
// It must not know: configuration files, management, the C side.
package session
