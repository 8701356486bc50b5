//! What networks lately said about keys, so that nobody's key is sent again and again.
//!
//! A key is known by a hash of how it is stored: a user who stores another one is judged anew.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::users::StoredKey;
use crate::product::binance::signed::SignedError;
use tradebot_base::market::Network;

/// More are not remembered; a hundred bytes each.
const CAPACITY: usize = 1_000;

/// What a network said about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyVerdict {
    /// The key is good there.
    Accepted,
    /// Its format is wrong: it stays so.
    BadFormat,
    /// Unknown, not allowed from here, or with another key's secret: its owner may put that right.
    Refused,
}

impl KeyVerdict {
    /// What a call's end says about the key, if it does.
    #[must_use]
    pub fn of(outcome: &Result<(), SignedError>) -> Option<Self> {
        match outcome {
            Ok(()) => Some(Self::Accepted),
            Err(SignedError::KeyFormat) => Some(Self::BadFormat),
            Err(SignedError::KeyRefused(_) | SignedError::WrongSecret) => Some(Self::Refused),
            Err(_) => None,
        }
    }

    /// How long it is believed.
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

/// The memory.
#[derive(Debug, Default)]
pub struct KeyVerdicts(Mutex<HashMap<(Fingerprint, Network), (KeyVerdict, Instant)>>);

impl KeyVerdicts {
    /// What `network` said about the key, unless that is too long before `now`.
    #[must_use]
    pub fn get(&self, key: &StoredKey, network: Network, now: Instant) -> Option<KeyVerdict> {
        let (verdict, until) = *self.lock().get(&(fingerprint(key), network))?;
        (until > now).then_some(verdict)
    }

    /// Notes what `network` said about the key.
    pub fn put(&self, key: &StoredKey, network: Network, verdict: KeyVerdict, now: Instant) {
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
        assert_eq!(verdicts.get(&last, Network::Mainnet, now), Some(KeyVerdict::Refused));
    }
}
