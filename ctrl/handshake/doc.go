// Package handshake is NPRO version 2's key exchange: the Noise Protocol
// Framework, revision 34, with the patterns XX, IK, NX and NNpsk0 over
// 25519, ChaChaPoly and SHA256, and ML-KEM-768 added by the hybrid forward
// secrecy extension.
//
// A Machine is a value: one HANDSHAKE frame in, at most one out, and in the end
// a Result. It does no input or output and reads no clock: frames, time, random
// bytes and trust arrive as arguments. (One exception, forced by crypto/mlkem:
// encapsulation draws its 32 random bytes from crypto/rand itself.) A Machine
// belongs to one connection and is not safe for concurrent use; a ReplayWindow
// is, because the connections of a listener share it. The package must not know
// what a connection is.
//
// # Which errors end a handshake
//
// All of them. After any error from Start or Receive the Machine has wiped its
// keys, every further call returns ErrFinished, and the connection is to be
// closed. Nothing is retried within a connection. Errors match these with
// errors.Is:
//
//   - ErrMalformed: a frame that is too short, too long, of the wrong type or
//     whose entries break their rules.
//   - ErrPattern: a pattern the configuration does not allow, or an answer in
//     another pattern than was asked for.
//   - ErrHybrid: one side has hybrid on, the other off.
//   - ErrAuth: something did not decrypt (wrong key, wrong pre-shared key,
//     altered bytes), or a public key was of low order.
//   - ErrUntrusted: the peer proved a static key that is not accepted.
//   - ErrClock: the initiator's timestamp is too far from now.
//   - ErrReplay: the initiator's nonce was seen before.
//   - ErrParams: no common AEAD, or values outside their limits.
//   - ErrFinished: the machine is over.
//
// # Protocol names
//
// Noise_XX_25519_ChaChaPoly_SHA256 and its kin; with hybrid
//
//	Noise_XXhfs_25519+MLKEM768_ChaChaPoly_SHA256
//	Noise_IKhfs_25519+MLKEM768_ChaChaPoly_SHA256
//	Noise_NXhfs_25519+MLKEM768_ChaChaPoly_SHA256
//	Noise_NNhfs+psk0_25519+MLKEM768_ChaChaPoly_SHA256
//
// (modifiers in alphabetical order, as Noise §8 asks). The token e1 follows the
// first "e", or the "es" right after it, so that it is encrypted where a key
// exists; ekem1 follows "ee". e1 sends EncryptAndHash(encapsulation key, 1,184
// bytes); ekem1 sends EncryptAndHash(ciphertext, 1,088 bytes) and then calls
// MixKey(shared secret). The prologue is "NPRO/2".
//
// # What travels where
//
// A frame's body is u8 pattern (bit 7: hybrid), then the Noise message, whose
// payload is a list of entries: u8 key, u16 length, value. A key that appears
// twice is an error, an unknown one is skipped; all of it is in the transcript
// hash, so altering any of it fails the handshake.
//
// The initiator's first payload carries timestamp, nonce and offers. In XX and
// NX no key exists yet and they go in clear: they say nothing of who is asking.
// The client's name does, so XX moves it to the third message, which is
// encrypted to the authenticated server, and NX, made for anonymous clients,
// leaves it out. The responder's choice and the connection ID ride in the second
// message, encrypted in every pattern.
//
// max_frame and the windows are no choice: each side states what it receives.
// The AEAD is the one both sides put first; where they differ,
// XChaCha20-Poly1305 if both have it (it is the one that needs no AES
// instructions); otherwise the responder's first that was offered. Compression
// is the responder's first that was offered, for both directions, or none.
// The heartbeat is the shorter of the two, 0 meaning no wish; an initiator's wish
// below a second counts as a second, lest it be a way to make a server work.
//
// # Replay
//
// A nonce is remembered once the initiator has been authenticated (IK and NNpsk0
// after the first message, XX after the third), so that only peers that may
// connect can push nonces out of the window. NX never authenticates its
// initiator; its nonces have a ring of their own of the same size.
package handshake
