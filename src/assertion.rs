//! The tokens with which a client proves that it holds the key: the client assertion and the DPoP
//! proof, both JWS in compact form (RFC 7515 section 7.1), signed with ES256.
//!
//! They let an operator try the current key against an authorization server. Time and chance are
//! arguments here, and nothing is sent.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::jwk::Jwk;
use crate::key::SigningKey;

/// A client assertion (RFC 7523 section 3), as the FAPI 2.0 Security Profile uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientAssertion<'a> {
    /// The client's id: `iss` and `sub`.
    pub client_id: &'a str,
    /// Whom it is for: `aud`, a string and not a list. FAPI 2.0 wants the authorization server's
    /// issuer identifier.
    pub audience: &'a str,
    /// The time from `iat` to `exp`, in whole seconds.
    pub lifetime: Duration,
    /// Whether the header names the key. Some clients send none.
    pub kid: bool,
}

impl ClientAssertion<'_> {
    /// The assertion, issued at `now`. See [`jti`] for the last argument.
    pub fn sign(&self, key: &SigningKey, now: DateTime<Utc>, jti: &str) -> String {
        let mut header = json!({ "typ": "JWT", "alg": "ES256" });
        if self.kid {
            header["kid"] = key.jwk().kid().to_string().into();
        }
        let issued_at = now.timestamp();
        let claims = json!({
            "iss": self.client_id,
            "sub": self.client_id,
            "aud": self.audience,
            "iat": issued_at,
            "exp": issued_at.saturating_add_unsigned(self.lifetime.as_secs()),
            "jti": jti,
        });
        compact(key, &header, &claims)
    }
}

/// A DPoP proof (RFC 9449 section 4.2), for one request.
///
/// It is neither `Debug` nor compared: the access token is a secret.
#[derive(Clone)]
pub struct DpopProof<'a> {
    /// The request's method: `htm`.
    pub method: &'a str,
    /// The request's URL. `htu` is what is before its query and fragment.
    pub url: &'a str,
    /// The `nonce` that the server gave out, if it did (section 8).
    pub nonce: Option<&'a str>,
    /// The access token that is sent along, if one is; its hash is `ath`.
    pub access_token: Option<&'a str>,
}

impl DpopProof<'_> {
    /// The proof, issued at `now`. See [`jti`] for the last argument.
    pub fn sign(&self, key: &SigningKey, now: DateTime<Utc>, jti: &str) -> String {
        let header = json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": bare_jwk(key.jwk()) });
        let mut claims = json!({
            "jti": jti,
            "htm": self.method,
            "htu": without_query_and_fragment(self.url),
            "iat": now.timestamp(),
        });
        if let Some(nonce) = self.nonce {
            claims["nonce"] = nonce.into();
        }
        if let Some(token) = self.access_token {
            claims["ath"] = URL_SAFE_NO_PAD.encode(Sha256::digest(token)).into();
        }
        compact(key, &header, &claims)
    }
}

/// A `jti`, from random bytes that are used for no other. It must not repeat (RFC 7519 section
/// 4.1.7); 128 bits are more than the 96 that RFC 9449 section 4.2 asks for.
pub fn jti(random: [u8; 16]) -> String {
    URL_SAFE_NO_PAD.encode(random)
}

/// The JWS compact serialisation (RFC 7515 section 7.1).
fn compact(key: &SigningKey, header: &Value, claims: &Value) -> String {
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let mut token = format!("{}.{}", part(header), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(token.as_bytes()));
    token.push('.');
    token.push_str(&signature);
    token
}

/// The members that make the key, and no other (RFC 7638 section 3.2): a proof stands for itself.
fn bare_jwk(key: &Jwk) -> Value {
    json!({
        "kty": "EC",
        "crv": "P-256",
        "x": URL_SAFE_NO_PAD.encode(key.x()),
        "y": URL_SAFE_NO_PAD.encode(key.y()),
    })
}

fn without_query_and_fragment(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or(url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{PemKey, parse_pem, verify};

    const JTI: &str = "AAECAwQFBgcICQoLDA0ODw";

    /// The key of RFC 7515 appendix A.3.
    fn key() -> SigningKey {
        let pem = include_bytes!("../tests/fixtures/keys/accepted/sec1.pem");
        match parse_pem(pem).unwrap() {
            PemKey::Private { key, .. } => key,
            PemKey::Public(_) => panic!("a private key was read as a public one"),
        }
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 999_999_999).unwrap()
    }

    /// The header and the claims of a token, if its signature verifies.
    fn read(token: &str) -> (Value, Value) {
        let (message, signature) = token.rsplit_once('.').unwrap();
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
        assert!(verify(key().jwk(), message.as_bytes(), &decode(signature)));
        let (header, claims) = message.split_once('.').unwrap();
        let [header, claims] = [header, claims].map(decode);
        let json = |text: &[u8]| {
            let value: Value = serde_json::from_slice(text).unwrap();
            assert_eq!(value.to_string().as_bytes(), text, "it is compact");
            value
        };
        (json(&header), json(&claims))
    }

    fn assertion() -> ClientAssertion<'static> {
        ClientAssertion {
            client_id: "client \"a\"",
            audience: "https://as.example.com",
            lifetime: Duration::from_millis(60_999),
            kid: true,
        }
    }

    #[test]
    fn an_assertion_has_exactly_the_members_that_fapi_asks_for() {
        let (header, claims) = read(&assertion().sign(&key(), at(1_795_000_000), JTI));
        assert_eq!(
            header,
            json!({
                "typ": "JWT",
                "alg": "ES256",
                "kid": "oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U",
            })
        );
        assert_eq!(
            claims,
            json!({
                "iss": "client \"a\"",
                "sub": "client \"a\"",
                "aud": "https://as.example.com",
                "iat": 1_795_000_000,
                "exp": 1_795_000_060,
                "jti": JTI,
            })
        );
    }

    #[test]
    fn the_kid_can_be_left_out() {
        let assertion = ClientAssertion { kid: false, ..assertion() };
        let (header, _) = read(&assertion.sign(&key(), at(0), JTI));
        assert_eq!(header, json!({ "typ": "JWT", "alg": "ES256" }));
    }

    #[test]
    fn an_endless_lifetime_ends_with_the_numbers() {
        let assertion = ClientAssertion { lifetime: Duration::MAX, ..assertion() };
        let (_, claims) = read(&assertion.sign(&key(), at(1), JTI));
        assert_eq!(claims["exp"], i64::MAX);
    }

    #[test]
    fn a_proof_has_exactly_the_members_of_rfc_9449() {
        let proof = DpopProof {
            method: "POST",
            url: "https://server.example.com/token",
            nonce: None,
            access_token: None,
        };
        let (header, claims) = read(&proof.sign(&key(), at(1_562_262_616), "-BwC3ESc6acc2lTc"));
        assert_eq!(
            header,
            json!({
                "typ": "dpop+jwt",
                "alg": "ES256",
                "jwk": {
                    "kty": "EC",
                    "crv": "P-256",
                    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
                    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
                },
            })
        );
        // The claims of RFC 9449 section 4.2.
        assert_eq!(
            claims,
            json!({
                "jti": "-BwC3ESc6acc2lTc",
                "htm": "POST",
                "htu": "https://server.example.com/token",
                "iat": 1_562_262_616,
            })
        );
    }

    #[test]
    fn a_proof_binds_the_nonce_and_the_access_token() {
        let proof = DpopProof {
            method: "GET",
            url: "https://resource.example.org/protectedresource",
            nonce: Some("eyJ7S_zG.eyJH0-Z.HX4w-7v"),
            access_token: Some("Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"),
        };
        let (_, claims) = read(&proof.sign(&key(), at(1_562_262_618), "e1j3V_bKic8-LAEB"));
        // The claims of RFC 9449 section 7.1, and the nonce of its section 8.
        assert_eq!(
            claims,
            json!({
                "jti": "e1j3V_bKic8-LAEB",
                "htm": "GET",
                "htu": "https://resource.example.org/protectedresource",
                "iat": 1_562_262_618,
                "nonce": "eyJ7S_zG.eyJH0-Z.HX4w-7v",
                "ath": "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo",
            })
        );
    }

    #[test]
    fn htu_has_no_query_and_no_fragment() {
        for (url, htu) in [
            ("https://a.example/b", "https://a.example/b"),
            ("https://a.example/b?c=d#e", "https://a.example/b"),
            ("https://a.example/b#e?c", "https://a.example/b"),
            ("https://a.example/?", "https://a.example/"),
            ("", ""),
        ] {
            assert_eq!(without_query_and_fragment(url), htu);
        }
    }

    #[test]
    fn a_jti_is_its_128_bits() {
        let random = std::array::from_fn(|at| u8::try_from(at).unwrap());
        assert_eq!(jti(random), JTI);
        assert_ne!(jti([0; 16]), jti([1; 16]));
    }
}
