//! Remembers which networks accepted or refused a key, so that a key is not sent again and again.
//!
//! Entries are keyed by a hash of the stored form, so a newly stored key is checked again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::users::StoredKey;
use crate::product::binance::signed::SignedError;
use tradebot_base::market::Network;

/// Maximum number of entries, about a hundred bytes each.
const CAPACITY: usize = 1_000;

/// A network's verdict on a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyVerdict {
    /// The network accepts the key.
    Accepted,
    /// The key is malformed, which will not change.
    BadFormat,
    /// Unknown, not allowed from here, or with the wrong secret. Its owner may fix that.
    Refused,
}

impl KeyVerdict {
    /// The verdict in a call's outcome, if it has one.
    #[must_use]
    pub fn of(outcome: &Result<(), SignedError>) -> Option<Self> {
        match outcome {
            Ok(()) => Some(Self::Accepted),
            Err(SignedError::KeyFormat) => Some(Self::BadFormat),
            Err(SignedError::KeyRefused(_) | SignedError::WrongSecret) => Some(Self::Refused),
            Err(_) => None,
        }
    }

    /// How long it is remembered.
    #[must_use]
    pub fn lifetime(self) -> Duration {
        match self {
            Self::Accepted => Duration::from_secs(60),
            Self::Refused => Duration::from_secs(5 * 60),
            Self::BadFormat => Duration::from_secs(60 * 60),
        }
    }
}

type Fingerprint = [u8; 32];

/// Recent verdicts, a negative cache with a short positive side.
#[derive(Debug, Default)]
pub(crate) struct KeyVerdicts(Mutex<HashMap<(Fingerprint, Network), (KeyVerdict, Instant)>>);

impl KeyVerdicts {
    /// The verdict of `network` on the key, unless it has expired at `now`.
    #[must_use]
    pub(crate) fn get(&self, key: &StoredKey, network: Network, now: Instant) -> Option<KeyVerdict> {
        let (verdict, until) = *self.lock().get(&(fingerprint(key), network))?;
        (until > now).then_some(verdict)
    }

    /// Remembers the verdict of `network` on the key.
    pub(crate) fn put(&self, key: &StoredKey, network: Network, verdict: KeyVerdict, now: Instant) {
        let mut verdicts = self.lock();
        if verdicts.len() >= CAPACITY {
            verdicts.retain(|_, (_, until)| *until > now);
        }
        if verdicts.len() >= CAPACITY {
            verdicts.clear();
        }
        verdicts.insert((fingerprint(key), network), (verdict, now + verdict.lifetime()));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(Fingerprint, Network), (KeyVerdict, Instant)>> {
        // Never held across an await; each change leaves a usable map.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fingerprint(key: &StoredKey) -> Fingerprint {
    let mut hash = Sha256::new();
    for part in [&key.encrypted_api_key, &key.encrypted_secret_key] {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> StoredKey {
        StoredKey {
            id: 1,
            is_valid: true,
            encrypted_api_key: format!("a{number}"),
            encrypted_secret_key: "b".into(),
        }
    }

    #[test]
    fn a_verdict_holds_for_its_time_its_network_and_its_key() {
        let (verdicts, start) = (KeyVerdicts::default(), Instant::now());
        for (verdict, seconds) in [
            (KeyVerdict::Accepted, 60),
            (KeyVerdict::Refused, 300),
            (KeyVerdict::BadFormat, 3_600),
        ] {
            verdicts.put(&key(1), Network::Testnet, verdict, start);
            let late = start + Duration::from_secs(seconds - 1);
            assert_eq!(verdicts.get(&key(1), Network::Testnet, late), Some(verdict));
            assert_eq!(verdicts.get(&key(1), Network::Mainnet, late), None);
            assert_eq!(verdicts.get(&key(2), Network::Testnet, late), None);
            let too_late = start + Duration::from_secs(seconds);
            assert_eq!(verdicts.get(&key(1), Network::Testnet, too_late), None);
        }
    }

    #[test]
    fn the_memory_is_bounded() {
        let (verdicts, now) = (KeyVerdicts::default(), Instant::now());
        for number in 0..3_000 {
            verdicts.put(&key(number), Network::Mainnet, KeyVerdict::Refused, now);
            assert!(verdicts.lock().len() <= 1_000);
        }
        let last = key(2_999);
        assert_eq!(
            verdicts.get(&last, Network::Mainnet, now),
            Some(KeyVerdict::Refused)
        );
    }
}
