//! The private key: [`SigningKey`], made or read, and what can be done with it.

use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use p256::ecdsa::signature::{Signer as _, Verifier as _};
use p256::ecdsa::{Signature, VerifyingKey};
use p256::elliptic_curve::point::AffineCoordinates as _;
use p256::elliptic_curve::rand_core::TryCryptoRng;
use p256::elliptic_curve::{Generate as _, Group as _};
use p256::{AffinePoint, ProjectivePoint, SecretKey};
use zeroize::Zeroizing;

use super::encode::uncompressed;
#[cfg(feature = "remembered-keys")]
use super::remembered;
use super::scrub::scrubbed;
use crate::jwk::{COORDINATE_LEN, Jwk};

/// How many public halves are derived without a table of multiples of the base point. To make the
/// table takes as long as it saves on the first few keys, which are all that most directories have.
const WITHOUT_TABLE: usize = 2;

/// A P-256 private key, with its public half.
///
/// It is neither `Clone` nor `Serialize`, its `Debug` shows the kid alone, and its memory is
/// zeroized when it is dropped.
pub struct SigningKey {
    /// Boxed, since a move of the key itself would leave a copy behind that nothing zeroizes.
    secret: Box<SecretKey>,
    jwk: Jwk,
}

impl SigningKey {
    /// Makes a key, and lets it sign and verify once before anybody gets it.
    ///
    /// # Errors
    ///
    /// If the random source fails, or the key does not verify what it signed.
    pub fn generate<R>(rng: &mut R) -> Result<Self, GenerateError>
    where
        R: TryCryptoRng<Error: Send + Sync + 'static> + ?Sized,
    {
        let secret = scrubbed(|| SecretKey::try_generate_from_rng(rng).map(Box::new))
            .map_err(|error| GenerateError::Random(Box::new(error)))?;
        scrubbed(|| Untested(Self::with_public_half(secret))).tested()
    }

    /// The key of this big-endian scalar, unless it is 0 or not below the order of the curve.
    pub(super) fn from_scalar(scalar: &[u8; COORDINATE_LEN]) -> Option<Self> {
        let secret = SecretKey::from_bytes(scalar.into()).ok()?;
        Some(Self::with_public_half(Box::new(secret)))
    }

    fn with_public_half(secret: Box<SecretKey>) -> Self {
        #[cfg(feature = "remembered-keys")]
        let jwk = remembered::public_half(&secret, || public_half(&secret));
        #[cfg(not(feature = "remembered-keys"))]
        let jwk = public_half(&secret);
        Self { secret, jwk }
    }

    /// The public half.
    pub fn jwk(&self) -> &Jwk {
        &self.jwk
    }

    /// The ES256 signature of `message`: r and s, 32 bytes each (RFC 7518 section 3.4).
    ///
    /// It is deterministic (RFC 6979), so it needs no random source.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let signature: Signature =
            scrubbed(|| p256::ecdsa::SigningKey::from(&*self.secret).sign(message));
        signature.to_bytes().into()
    }

    /// The private scalar, big-endian.
    pub(super) fn scalar(&self) -> Zeroizing<[u8; COORDINATE_LEN]> {
        Zeroizing::new(self.secret.to_bytes().into())
    }

    /// Whether the public half, as it will be published, verifies what the private half signs.
    fn verifies_itself(&self) -> bool {
        const MESSAGE: &[u8] = b"jwks-server self-test";
        verify(&self.jwk, MESSAGE, &self.sign(MESSAGE))
    }
}

/// A key that was just made. Nobody gets it before it has signed and verified once.
struct Untested(SigningKey);

impl Untested {
    fn tested(self) -> Result<SigningKey, GenerateError> {
        let Self(key) = self;
        #[cfg(feature = "remembered-keys")]
        let passes = remembered::passes(key.jwk.kid(), || key.verifies_itself());
        #[cfg(not(feature = "remembered-keys"))]
        let passes = key.verifies_itself();
        if passes { Ok(key) } else { Err(GenerateError::SelfTest) }
    }
}

fn public_half(secret: &SecretKey) -> Jwk {
    static DERIVED: AtomicUsize = AtomicUsize::new(0);
    let with_table = DERIVED.fetch_add(1, Ordering::Relaxed) >= WITHOUT_TABLE;
    let point = public_point(secret, with_table);
    Jwk::from_coordinates(point.x().into(), point.y().into())
}

/// The base point, multiplied: most of what reading a key costs.
fn public_point(secret: &SecretKey, with_table: bool) -> AffinePoint {
    let scalar = Zeroizing::new(*secret.to_nonzero_scalar());
    let point = if with_table {
        ProjectivePoint::mul_by_generator(&scalar)
    } else {
        ProjectivePoint::GENERATOR * *scalar
    };
    point.to_affine()
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.jwk.kid())
    }
}

/// Why no key was made.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The random source failed.
    #[error("read random bytes")]
    Random(#[source] Box<dyn Error + Send + Sync>),
    /// The new key did not verify what it signed; memory or processor are not to be trusted.
    #[error("verify a signature of the new key with its public half")]
    SelfTest,
}

/// Whether `signature` is `key`'s ES256 signature of `message` (RFC 7518 section 3.4).
pub fn verify(key: &Jwk, message: &[u8], signature: &[u8]) -> bool {
    let verified = || {
        let key = VerifyingKey::from_sec1_bytes(&uncompressed(key)).ok()?;
        let signature = Signature::from_slice(signature).ok()?;
        key.verify(message, &signature).ok()
    };
    verified().is_some()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use getrandom::SysRng;
    use p256::elliptic_curve::rand_core::{TryCryptoRng, TryRng};

    use super::*;

    /// A source that yields `byte` for ever, or fails.
    struct Constant<E>(Result<u8, E>);

    impl<E: Error + Clone> TryRng for Constant<E> {
        type Error = E;

        fn try_next_u32(&mut self) -> Result<u32, E> {
            self.0.clone().map(|byte| u32::from_ne_bytes([byte; 4]))
        }

        fn try_next_u64(&mut self) -> Result<u64, E> {
            self.0.clone().map(|byte| u64::from_ne_bytes([byte; 8]))
        }

        fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), E> {
            bytes.fill(self.0.clone()?);
            Ok(())
        }
    }

    impl<E: Error + Clone> TryCryptoRng for Constant<E> {}

    #[test]
    fn a_new_key_comes_from_the_random_source_alone() {
        let kid = |byte| {
            let mut rng = Constant::<Infallible>(Ok(byte));
            SigningKey::generate(&mut rng).unwrap().jwk().kid()
        };
        assert_eq!(kid(7), kid(7));
        assert_ne!(kid(7), kid(8));
        let new = || SigningKey::generate(&mut SysRng).unwrap().jwk().kid();
        assert_ne!(new(), new());
    }

    #[test]
    fn no_key_is_made_when_the_random_source_fails() {
        let mut rng = Constant(Err(fmt::Error));
        let error = SigningKey::generate(&mut rng).unwrap_err();
        assert_eq!(error.to_string(), "read random bytes");
        assert_eq!(
            error.source().unwrap().to_string(),
            fmt::Error.to_string(),
            "the cause is passed on"
        );
    }

    #[test]
    fn the_self_test_fails_a_key_whose_halves_do_not_fit() {
        let mut key = SigningKey::from_scalar(&[7; COORDINATE_LEN]).unwrap();
        assert!(key.verifies_itself());
        key.jwk = SigningKey::from_scalar(&[8; COORDINATE_LEN]).unwrap().jwk;
        assert!(!key.verifies_itself());
        assert!(matches!(Untested(key).tested(), Err(GenerateError::SelfTest)));
        let key = SigningKey::from_scalar(&[7; COORDINATE_LEN]).unwrap();
        assert!(Untested(key).tested().is_ok());
    }

    #[test]
    fn the_public_half_is_the_same_with_the_table_and_without() {
        let scalars = [&[0; 31][..], &[1]]
            .concat()
            .try_into()
            .into_iter()
            .chain((1..=u8::MAX).map(|byte| [byte; COORDINATE_LEN]));
        for scalar in scalars {
            let Ok(secret) = SecretKey::from_bytes(&scalar.into()) else {
                assert_eq!(scalar, [u8::MAX; COORDINATE_LEN], "the only one above the order");
                continue;
            };
            assert_eq!(public_point(&secret, true), public_point(&secret, false));
        }
    }

    #[test]
    fn a_signature_verifies_for_its_key_and_message_alone() {
        let key = SigningKey::from_scalar(&[7; COORDINATE_LEN]).unwrap();
        let other = SigningKey::from_scalar(&[8; COORDINATE_LEN]).unwrap();
        let signature = key.sign(b"message");
        assert!(verify(key.jwk(), b"message", &signature));
        assert!(!verify(key.jwk(), b"Message", &signature));
        assert!(!verify(other.jwk(), b"message", &signature));
        assert!(!verify(key.jwk(), b"message", &signature[..63]));
        assert!(!verify(key.jwk(), b"message", &[0; 64]));
        for byte in 0..64 {
            let mut forged = signature;
            forged[byte] ^= 1;
            assert!(!verify(key.jwk(), b"message", &forged), "byte {byte}");
        }
        let nowhere = Jwk::from_coordinates([1; COORDINATE_LEN], [1; COORDINATE_LEN]);
        assert!(!verify(&nowhere, b"message", &signature));
    }
}
