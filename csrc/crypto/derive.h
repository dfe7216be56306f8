/* Internal to this folder: what is computed once per key. */
#ifndef NP_CRYPTO_DERIVE_H
#define NP_CRYPTO_DERIVE_H

#include <stdbool.h>
#include <stdint.h>

/* HKDF-SHA-256 (RFC 5869), extract and expand. An empty salt is 32 zero bytes.
 * Allocates nothing. Return: false when out_bytes is over 255 * 32. */
bool np_hkdf_sha256(const uint8_t *ikm, uint32_t ikm_bytes, const uint8_t *salt, uint32_t salt_bytes,
                    const uint8_t *info, uint32_t info_bytes, uint8_t *out, uint32_t out_bytes);

/* HChaCha20 (draft-irtf-cfrg-xchacha-03 §2.2): subkey of key and the first 16
 * bytes of an XChaCha nonce. out may be key. */
void np_hchacha20(const uint8_t key[32], const uint8_t nonce[16], uint8_t out[32]);

#endif
