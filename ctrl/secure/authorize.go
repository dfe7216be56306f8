package secure

import "crypto/tls"

// Authorize returns a copy of t whose handshakes ask whether the connection is let in: ask
// at the ClientHello, before anything costs, and what it returns (nil: nothing) once the
// peer's certificate is verified. An error ends the handshake with an alert. It is for
// servers, over TCP and QUIC alike.
func Authorize(t *tls.Config, ask func(*tls.ClientHelloInfo) (verified func(tls.ConnectionState) error, err error)) *tls.Config {
	t = t.Clone()
	pick := t.GetConfigForClient
	t.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		var picked *tls.Config
		if pick != nil {
			var err error
			if picked, err = pick(hello); err != nil {
				return nil, err
			}
		}
		then, err := ask(hello)
		if err != nil || then == nil {
			return picked, err
		}
		if picked == nil {
			picked = t
		}
		picked = picked.Clone()
		picked.GetConfigForClient = nil
		before := picked.VerifyConnection // unlike VerifyPeerCertificate it runs on resumed sessions too
		picked.VerifyConnection = func(state tls.ConnectionState) error {
			if before != nil {
				if err := before(state); err != nil {
					return err
				}
			}
			return then(state)
		}
		return picked, nil
	}
	return t
}
