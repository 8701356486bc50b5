//! Verifies users' tokens: HMAC with one algorithm, an expiry, and an e-mail address as the subject.
//!
//! `jsonwebtoken` checks signature and claims with no cryptography but the HMAC below, so a token with `none` or a
//! public-key algorithm cannot be verified. Tokens that python-jose refuses with the deployment's options are refused here
//! too: those with an audience, or with `nbf` in the future.

use std::fmt;
use std::str::FromStr;

use hmac::{Hmac, KeyInit, Mac};
use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::signature::{self, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Validation};
use serde::Deserialize;
use sha2::{Sha256, Sha384, Sha512};
use thiserror::Error;

use tradebot_base::secret::Secret;

/// Longest token that is verified. The deployment's have about 200 bytes.
const LONGEST_TOKEN: usize = 8 * 1024;
/// The longest e-mail address that RFC 3696 allows.
const LONGEST_EMAIL: usize = 320;

/// Why a token is not accepted. Never quotes the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TokenError {
    /// Not three parts of base64 with JSON in them, or longer than any token of the deployment.
    #[error("the token is malformed")]
    Malformed,
    /// An algorithm other than the configured one, `none` included.
    #[error("the token's algorithm is not the configured one")]
    WrongAlgorithm,
    /// Signed with another key, or altered.
    #[error("the token's signature is wrong")]
    WrongSignature,
    /// `exp` is in the past.
    #[error("the token has expired")]
    Expired,
    /// There is no usable `exp`.
    #[error("the token has no expiry")]
    NoExpiry,
    /// `nbf`, `aud` or a critical extension rules it out.
    #[error("the token is not valid yet, or not meant for this service")]
    NotForUs,
    /// `sub` is absent, or cannot be an e-mail address.
    #[error("the token names no user")]
    NoUser,
}

/// The algorithms that `ALGORITHM` may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HmacAlgorithm(Algorithm);

impl FromStr for HmacAlgorithm {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        match name {
            "HS256" => Ok(Self(Algorithm::HS256)),
            "HS384" => Ok(Self(Algorithm::HS384)),
            "HS512" => Ok(Self(Algorithm::HS512)),
            _ => Err(()),
        }
    }
}

/// Verifies tokens with one key and one algorithm.
pub struct TokenVerifier {
    key: DecodingKey,
    validation: Validation,
}

impl fmt::Debug for TokenVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenVerifier").finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: serde_json::Value,
}

impl TokenVerifier {
    /// A verifier that accepts only tokens signed with `key` by `algorithm`.
    #[must_use]
    pub fn new(key: &Secret, algorithm: HmacAlgorithm) -> Self {
        // Fails only if it is already installed.
        let _ = HMAC_ONLY.install_default();
        let mut validation = Validation::new(algorithm.0);
        validation.leeway = 0;
        validation.validate_nbf = true;
        Self {
            key: DecodingKey::from_secret(key.expose().as_bytes()),
            validation,
        }
    }

    /// The e-mail address of the user that a token names.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn email(&self, token: &str) -> Result<String, TokenError> {
        if token.len() > LONGEST_TOKEN {
            return Err(TokenError::Malformed);
        }
        let decoded = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation)
            .map_err(|error| why(&error))?;
        // RFC 7515: a token with a critical extension that the verifier does not understand is invalid.
        if decoded.header.crit.is_some() {
            return Err(TokenError::NotForUs);
        }
        match decoded.claims.sub {
            serde_json::Value::String(email) if may_be_email(&email) => Ok(email),
            _ => Err(TokenError::NoUser),
        }
    }
}

/// Whether it can be passed to the database: PostgreSQL refuses text with a zero byte.
pub(super) fn may_be_email(text: &str) -> bool {
    (1..=LONGEST_EMAIL).contains(&text.len()) && !text.contains('\0')
}

fn why(error: &Error) -> TokenError {
    match error.kind() {
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => TokenError::WrongAlgorithm,
        ErrorKind::InvalidSignature => TokenError::WrongSignature,
        ErrorKind::ExpiredSignature => TokenError::Expired,
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) => TokenError::NoExpiry,
        ErrorKind::ImmatureSignature | ErrorKind::InvalidAudience => TokenError::NotForUs,
        _ => TokenError::Malformed,
    }
}

/// The only cryptography that `jsonwebtoken` gets: verification by HMAC.
static HMAC_ONLY: CryptoProvider = CryptoProvider {
    signer_factory: refuse_to_sign,
    verifier_factory: verifier,
    key_utils: KeyUtils::new_unimplemented(),
};

fn refuse_to_sign(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    Err(ErrorKind::UnsupportedAlgorithm.into())
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    let key = key.try_get_as_bytes()?;
    let unusable = |_| Error::from(ErrorKind::InvalidKeyFormat);
    Ok(match algorithm {
        Algorithm::HS256 => Box::new(HmacVerifier::<Hmac<Sha256>> {
            algorithm: Algorithm::HS256,
            mac: Hmac::new_from_slice(key).map_err(unusable)?,
        }),
        Algorithm::HS384 => Box::new(HmacVerifier::<Hmac<Sha384>> {
            algorithm: Algorithm::HS384,
            mac: Hmac::new_from_slice(key).map_err(unusable)?,
        }),
        Algorithm::HS512 => Box::new(HmacVerifier::<Hmac<Sha512>> {
            algorithm: Algorithm::HS512,
            mac: Hmac::new_from_slice(key).map_err(unusable)?,
        }),
        _ => return Err(ErrorKind::UnsupportedAlgorithm.into()),
    })
}

struct HmacVerifier<M> {
    algorithm: Algorithm,
    mac: M,
}

impl<M: Mac + Clone> Verifier<Vec<u8>> for HmacVerifier<M> {
    /// Compares in constant time.
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let mut mac = self.mac.clone();
        mac.update(message);
        mac.verify_slice(signature).map_err(|_| signature::Error::new())
    }
}

impl<M: Mac + Clone> JwtVerifier for HmacVerifier<M> {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

#[cfg(test)]
#[path = "jwt/tests.rs"]
mod tests;
