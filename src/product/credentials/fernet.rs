//! Decrypts Fernet tokens, the form in which the deployment stores exchange keys.
//!
//! The format is that of <https://github.com/fernet/spec>: version 0x80, time, initialisation vector, AES-128-CBC
//! ciphertext, and HMAC-SHA256 over all of it, in URL-safe base64. Like the deployment, this ignores a token's age.
//! Cipher, padding and MAC are RustCrypto's. The `fernet` crate would pull in a second generation of them, has a copyleft
//! licence, and does not zero what it decrypted.

use std::fmt;

use aes::Aes128;
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use cbc::Decryptor;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt, KeyIvInit};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use thiserror::Error;
use zeroize::Zeroizing;

use tradebot_base::secret::Secret;

const VERSION: u8 = 0x80;
/// Version, time, initialisation vector.
const HEAD: usize = 1 + 8 + 16;
const TAG: usize = 32;
const BLOCK: usize = 16;
/// Longest token that is decrypted. An API key's has 184 characters.
const LONGEST_TOKEN: usize = 16 * 1024;

/// URL-safe, padded or not: Python pads, but people cut the padding off.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a key cannot be read or a token not decrypted. Quotes neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FernetError {
    /// Not the URL-safe base64 of 32 bytes.
    #[error("a Fernet key is the URL-safe base64 of 32 bytes")]
    BadKey,
    /// Not a Fernet token at all.
    #[error("the stored value is not a Fernet token")]
    NotAToken,
    /// Encrypted with another key, or damaged.
    #[error("no Fernet key fits the stored value")]
    WrongKey,
    /// It decrypts to bytes that are not UTF-8.
    #[error("the decrypted value is not text")]
    NotText,
}

/// Several keys, newest first, like Python's `MultiFernet`.
pub struct Keyring(Vec<Key>);

struct Key {
    signing: Zeroizing<[u8; 16]>,
    encryption: Zeroizing<[u8; 16]>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({} keys)", self.0.len())
    }
}

impl Keyring {
    /// Reads a comma-separated list of keys.
    ///
    /// # Errors
    /// [`FernetError::BadKey`], also for an empty list.
    pub fn parse(list: &Secret) -> Result<Self, FernetError> {
        let keys = list.expose().split(',').map(str::trim);
        let keys: Vec<Key> = keys
            .filter(|key| !key.is_empty())
            .map(Key::parse)
            .collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Err(FernetError::BadKey);
        }
        Ok(Self(keys))
    }

    /// Decrypts a token with the first key that fits.
    ///
    /// # Errors
    /// [`FernetError`].
    pub fn decrypt(&self, token: &str) -> Result<Secret, FernetError> {
        if token.len() > LONGEST_TOKEN {
            return Err(FernetError::NotAToken);
        }
        let token = BASE64.decode(token.trim()).map_err(|_| FernetError::NotAToken)?;
        let ciphertext = token.len().checked_sub(HEAD + TAG);
        if token.first() != Some(&VERSION) || ciphertext.is_none_or(|it| it == 0 || it % BLOCK != 0) {
            return Err(FernetError::NotAToken);
        }
        let text = self.0.iter().find_map(|key| key.decrypt(&token));
        text.ok_or(FernetError::WrongKey)?
    }

    /// Whether one of the keys is publicly known or clearly not random.
    #[must_use]
    pub fn has_well_known_key(&self) -> bool {
        self.0.iter().any(Key::is_well_known)
    }
}

impl Key {
    fn parse(text: &str) -> Result<Self, FernetError> {
        // Python also accepts the standard alphabet, in which `openssl rand -base64 32` writes keys.
        let text = Zeroizing::new(text.replace('+', "-"));
        let text = Zeroizing::new(text.replace('/', "_"));
        let bytes = BASE64.decode(&*text).map_err(|_| FernetError::BadKey)?;
        let bytes = Zeroizing::new(bytes);
        let (signing, encryption) = bytes.split_at_checked(16).ok_or(FernetError::BadKey)?;
        let half = |half: &[u8]| {
            half.try_into()
                .map(Zeroizing::new)
                .map_err(|_| FernetError::BadKey)
        };
        Ok(Self {
            signing: half(signing)?,
            encryption: half(encryption)?,
        })
    }

    /// Decrypts a token, or returns `None` if it was made with another key.
    fn decrypt(&self, token: &[u8]) -> Option<Result<Secret, FernetError>> {
        let (signed, tag) = token.split_at(token.len() - TAG);
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.signing[..]).ok()?;
        mac.update(signed);
        mac.verify_slice(tag).ok()?;
        let (vector, ciphertext) = signed[HEAD - BLOCK..].split_at(BLOCK);
        let cipher = Decryptor::<Aes128>::new_from_slices(&self.encryption[..], vector).ok()?;
        let mut buffer = Zeroizing::new(ciphertext.to_vec());
        // The MAC was right, so wrong padding is no oracle for an attacker.
        let Ok(plain) = cipher.decrypt_padded::<Pkcs7>(&mut buffer) else {
            return Some(Err(FernetError::NotAToken));
        };
        Some(
            std::str::from_utf8(plain)
                .map(Secret::new)
                .map_err(|_| FernetError::NotText),
        )
    }

    fn is_well_known(&self) -> bool {
        // The key in the specification's examples, which tutorials copy.
        const OF_THE_SPECIFICATION: &str = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";
        let all = || self.signing.iter().chain(self.encryption.iter());
        let first = self.signing[0];
        all().all(|byte| *byte == first)
            // 32 printable characters were typed by a person; random bytes hardly ever look like that.
            || all().all(|byte| byte.is_ascii_graphic() || *byte == b' ')
            || BASE64.decode(OF_THE_SPECIFICATION).is_ok_and(|known| all().eq(&known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::STANDARD;

    /// The vector of the specification: `verify.json`.
    const KEY: &str = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";
    const TOKEN: &str = "gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODy021cpGVWKZ_eEwCGM4BLLF_5CV9dOPmrhuVUPgJobwOz7JcbmrR64jVmpU4IwqDA==";
    const OTHER: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";

    fn keyring(list: &str) -> Keyring {
        Keyring::parse(&Secret::new(list)).unwrap()
    }

    #[test]
    fn the_vector_of_the_specification_is_decrypted_by_any_of_several_keys() {
        for list in [
            KEY.to_owned(),
            format!("{OTHER},{KEY}"),
            format!(" {KEY} , {OTHER},"),
        ] {
            assert_eq!(keyring(&list).decrypt(TOKEN).unwrap().expose(), "hello", "{list}");
        }
        assert_eq!(
            keyring(OTHER).decrypt(TOKEN).map(drop),
            Err(FernetError::WrongKey)
        );
        assert_eq!(
            keyring(KEY)
                .decrypt(TOKEN.trim_end_matches('='))
                .unwrap()
                .expose(),
            "hello"
        );
    }

    #[test]
    fn damaged_tokens_are_refused() {
        let ring = keyring(KEY);
        let bytes = BASE64.decode(TOKEN).unwrap();
        for place in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[place] ^= 1;
            let expected = if place == 0 {
                FernetError::NotAToken
            } else {
                FernetError::WrongKey
            };
            let damaged = BASE64.encode(damaged);
            assert_eq!(ring.decrypt(&damaged).map(drop), Err(expected), "byte {place}");
        }
        for end in 0..bytes.len() {
            assert!(
                ring.decrypt(&BASE64.encode(&bytes[..end])).is_err(),
                "cut at {end}"
            );
        }
        // Of the form of a token; beyond 16 KiB it is not looked at.
        let of_blocks = |blocks: usize| {
            let mut token = vec![0; HEAD + TAG + blocks * BLOCK];
            token[0] = VERSION;
            BASE64.encode(token)
        };
        assert_eq!(
            ring.decrypt(&of_blocks(760)).map(drop),
            Err(FernetError::WrongKey)
        );
        for text in ["", "gAAAAA", "not base64!", "币安", &of_blocks(770)] {
            assert_eq!(ring.decrypt(text).map(drop), Err(FernetError::NotAToken));
        }
    }

    #[test]
    fn a_key_has_32_bytes() {
        for text in [
            "",
            " , ",
            "abc",
            "AQIDBA==",
            &format!("{KEY}AAAA"),
            &format!("{KEY},abc"),
        ] {
            assert_eq!(
                Keyring::parse(&Secret::new(text)).map(drop),
                Err(FernetError::BadKey),
                "{text}"
            );
        }
    }

    #[test]
    fn a_key_may_be_in_the_other_alphabet_and_without_padding() {
        let bytes = [0xfb; 32];
        let [urlsafe, standard] = [BASE64.encode(bytes), STANDARD.encode(bytes)];
        assert_ne!(urlsafe, standard);
        for key in [&urlsafe, &standard, urlsafe.trim_end_matches('=')] {
            assert_eq!(keyring(key).0[0].signing[..], bytes[..16], "{key}");
        }
    }

    #[test]
    fn well_known_keys_are_recognised() {
        let words = BASE64.encode("a secret of thirty-two letters!!");
        let zeros = BASE64.encode([0; 32]);
        for known in [KEY, &words, &zeros] {
            assert!(keyring(known).has_well_known_key(), "{known}");
            assert!(keyring(&format!("{OTHER},{known}")).has_well_known_key());
        }
        assert!(!keyring(OTHER).has_well_known_key());
    }

    #[test]
    fn a_keyring_does_not_print_its_keys() {
        assert_eq!(format!("{:?}", keyring(KEY)), "Keyring(1 keys)");
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = keyring(KEY).decrypt(&text);
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = keyring(KEY).decrypt(&BASE64.encode(bytes));
        }
    }
}
