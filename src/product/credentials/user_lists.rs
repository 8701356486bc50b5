//! From a token to the user's list, or to a reason for serving the public list.
//!
//! Decisions that the deployment's code left open:
//! * Keys are tried in this order: those the deployment has marked valid, then the others; newest first. The first one
//!   that can be decrypted is used, and no other key is sent anywhere.
//! * That key is tried on the networks in the configured order. Any failure on one leads to the next. Access to the
//!   account proves the key, for spot and futures alike.
//! * A network's list is the same for all its users. For the deployment's network it is the public list in the cache; the
//!   list of another network is kept in memory for a minute and shared.
//!
//! Does not write to Redis. A lookup ends within its budget, which leaves the request time to serve the public list.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use super::fernet::{FernetError, Keyring};
use super::jwt::{TokenVerifier, may_be_email};
use super::outcome::{Fallback, LookupStep, NetworkFailure, OUTCOMES, PrivateList, UserList, outcome_index};
use super::settings::EnabledCredentials;
use super::tls::TlsError;
use super::users::{DatabaseError, StoredKey, User, Users};
use super::verdicts::{KeyVerdict, KeyVerdicts};
use crate::config::SymbolsConfig;
use crate::product::binance::client::{Client, Fetched};
use crate::product::binance::signed::ApiKey;
use crate::product::symbols::prepare::{missing_anchors, prepare};
use tradebot_base::clock::{Clock, SystemClock};
use tradebot_base::error_chain;
use tradebot_base::market::{Market, Network, PerMarket};

/// How long to keep the list of another network.
const PRIVATE_LIFETIME: Duration = Duration::from_secs(60);

/// Why user lists cannot be set up.
#[derive(Debug, Error)]
pub enum UserListsError {
    /// TLS to the database.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// TLS to the exchange.
    #[error("cannot set up the HTTP client")]
    Http(#[from] reqwest::Error),
}

/// Looks up the lists of users by token or e-mail address.
pub struct UserLists {
    verifier: TokenVerifier,
    keyring: Keyring,
    users: Users,
    networks: Vec<NetworkClient>,
    deployment_network: Network,
    symbols: SymbolsConfig,
    budget: Duration,
    verdicts: KeyVerdicts,
    outcomes: [AtomicU64; OUTCOMES.len()],
    database_is_down: AtomicBool,
}

/// A network's client, and its lists unless they are the public ones.
struct NetworkClient {
    network: Network,
    client: Client,
    lists: PerMarket<Mutex<Option<CachedList>>>,
}

struct CachedList {
    fetched: Instant,
    list: Arc<PrivateList>,
}

impl CachedList {
    fn is_current(&self) -> bool {
        self.fetched.elapsed() < PRIVATE_LIFETIME
    }
}

impl UserLists {
    /// Sets up lookups without connecting. The clients of other networks share the pauses of `own`, the client of the
    /// deployment's network.
    ///
    /// # Errors
    /// [`UserListsError`].
    pub fn new(
        enabled: EnabledCredentials,
        own: &Client,
        symbols: SymbolsConfig,
    ) -> Result<Self, UserListsError> {
        for warning in &enabled.warnings {
            warn!("{warning}; production refuses to start with it");
        }
        info!(
            database = %enabled.database, tls = ?enabled.database.tls, networks = ?enabled.networks,
            "serving lists by users' own keys"
        );
        let networks = enabled.networks.iter().map(|&network| {
            let client = own.on(network)?;
            let lists = PerMarket::default();
            Ok(NetworkClient {
                network,
                client,
                lists,
            })
        });
        Ok(Self {
            networks: networks.collect::<Result<_, UserListsError>>()?,
            users: Users::new(&enabled.database, enabled.pool_size, enabled.database_timeout)?,
            verifier: enabled.verifier,
            keyring: enabled.keyring,
            deployment_network: own.network(),
            symbols,
            budget: enabled.budget,
            verdicts: KeyVerdicts::default(),
            outcomes: std::array::from_fn(|_| AtomicU64::new(0)),
            database_is_down: AtomicBool::new(false),
        })
    }

    /// The list of the user that `token`, the text after `Bearer`, names.
    ///
    /// # Errors
    /// [`Fallback`]: serve the public list. The reason has been logged.
    pub async fn list_for(&self, token: &str, market: Market) -> Result<UserList, Fallback> {
        let outcome = match self.verifier.email(token) {
            Ok(email) => self.list_of(&email, market, &mut |_| {}).await,
            Err(error) => Err(error.into()),
        };
        self.outcomes[outcome_index(&outcome)].fetch_add(1, Ordering::Relaxed);
        self.log_outcome(market, &outcome);
        outcome
    }

    /// The list of the user with this e-mail address, without a token and without counting the outcome. Calls `on_step` for
    /// each step.
    ///
    /// # Errors
    /// [`Fallback`].
    pub async fn list_of(
        &self,
        email: &str,
        market: Market,
        on_step: &mut (dyn FnMut(LookupStep<'_>) + Send),
    ) -> Result<UserList, Fallback> {
        // Boxed, so that callers' futures stay small.
        let look_up = Box::pin(self.look_up(email, market, Instant::now() + self.budget, on_step));
        timeout(self.budget, look_up)
            .await
            .unwrap_or(Err(Fallback::OutOfTime(self.budget)))
    }

    /// How often each outcome has occurred, by name.
    pub fn outcomes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.outcomes.iter().map(|count| count.load(Ordering::Relaxed));
        OUTCOMES.into_iter().zip(counts)
    }

    async fn look_up(
        &self,
        email: &str,
        market: Market,
        deadline: Instant,
        on_step: &mut (dyn FnMut(LookupStep<'_>) + Send),
    ) -> Result<UserList, Fallback> {
        if !may_be_email(email) {
            return Err(Fallback::UnknownUser);
        }
        let user = self.users.find(email).await?.ok_or(Fallback::UnknownUser)?;
        if !user.is_active {
            return Err(Fallback::InactiveUser(user.id));
        }
        on_step(LookupStep::User {
            id: user.id,
            keys: user.keys.len(),
        });
        let (stored, key) = self.decrypt(&user, on_step)?;
        let mut reasons = Vec::new();
        for (number, target) in self.networks.iter().enumerate() {
            let left = u32::try_from(self.networks.len() - number).unwrap_or(u32::MAX);
            let share = deadline.saturating_duration_since(Instant::now()) / left;
            let asked = timeout(
                share,
                self.on_network(target, stored, &key, market, share, on_step),
            )
            .await;
            match asked.unwrap_or(Err(NetworkFailure::OutOfTime(share))) {
                Ok(own) => return Ok(own),
                Err(failure) => {
                    on_step(LookupStep::Failed {
                        network: target.network,
                        failure: &failure,
                    });
                    reasons.push((target.network, failure));
                }
            }
        }
        Err(Fallback::Networks {
            user: user.id,
            key: stored.id,
            reasons,
        })
    }

    /// The first stored key that can be decrypted.
    fn decrypt<'u>(
        &self,
        user: &'u User,
        on_step: &mut (dyn FnMut(LookupStep<'_>) + Send),
    ) -> Result<(&'u StoredKey, ApiKey), Fallback> {
        let mut first = None;
        for stored in &user.keys {
            match self.decrypt_one(stored) {
                Ok(key) => {
                    on_step(LookupStep::Decrypted {
                        key: stored.id,
                        is_valid: stored.is_valid,
                    });
                    return Ok((stored, key));
                }
                Err(reason) => {
                    on_step(LookupStep::Skipped {
                        key: stored.id,
                        reason,
                    });
                    first.get_or_insert(reason);
                }
            }
        }
        Err(match first {
            Some(reason) => Fallback::Undecryptable {
                user: user.id,
                reason,
            },
            None => Fallback::NoKey(user.id),
        })
    }

    fn decrypt_one(&self, stored: &StoredKey) -> Result<ApiKey, FernetError> {
        Ok(ApiKey {
            key: self.keyring.decrypt(&stored.encrypted_api_key)?,
            secret: self.keyring.decrypt(&stored.encrypted_secret_key)?,
        })
    }

    async fn on_network(
        &self,
        target: &NetworkClient,
        stored: &StoredKey,
        key: &ApiKey,
        market: Market,
        share: Duration,
        on_step: &mut (dyn FnMut(LookupStep<'_>) + Send),
    ) -> Result<UserList, NetworkFailure> {
        match self.verdicts.get(stored, target.network, Instant::now()) {
            Some(KeyVerdict::Accepted) => {}
            Some(verdict) => return Err(NetworkFailure::Remembered(verdict)),
            None => {
                let outcome = target.client.check_account(key, share).await;
                if let Some(verdict) = KeyVerdict::of(&outcome) {
                    self.verdicts.put(stored, target.network, verdict, Instant::now());
                }
                outcome?;
            }
        }
        on_step(LookupStep::Accepted {
            network: target.network,
            offset_ms: target.client.clock_offset_ms(),
        });
        if target.network == self.deployment_network {
            return Ok(UserList::Public(target.network));
        }
        self.private_list(target, market).await.map(UserList::Private)
    }

    async fn private_list(
        &self,
        target: &NetworkClient,
        market: Market,
    ) -> Result<Arc<PrivateList>, NetworkFailure> {
        // Locked while fetching: later callers wait for the same list, each within its own deadline.
        let mut cached = target.lists.get(market).lock().await;
        if let Some(cached) = cached.as_ref().filter(|cached| cached.is_current()) {
            return Ok(Arc::clone(&cached.list));
        }
        let accept = |fetched: Fetched| {
            let symbols = prepare(fetched.listing.symbols, market, &self.symbols);
            if symbols.is_empty() {
                return Err(NetworkFailure::Empty);
            }
            let missing = missing_anchors(&symbols, &self.symbols);
            if !missing.is_empty() {
                return Err(NetworkFailure::NoAnchors(missing));
            }
            Ok(PrivateList {
                network: target.network,
                host: fetched.base_url,
                symbols,
                fetched_at: SystemClock.now().timestamp(),
                sandbox: fetched.listing.sandbox,
            })
        };
        let list = Arc::new(target.client.acceptable_list(market, accept).await?);
        *cached = Some(CachedList {
            fetched: Instant::now(),
            list: Arc::clone(&list),
        });
        Ok(list)
    }

    /// Warns if the operator can act. A bad token is only debug output: anyone can send one.
    fn log_outcome(&self, market: Market, outcome: &Result<UserList, Fallback>) {
        if !matches!(outcome, Err(Fallback::Token(_) | Fallback::Database(_)))
            && self.database_is_down.swap(false, Ordering::Relaxed)
        {
            info!("the database answers again");
        }
        match outcome {
            Ok(UserList::Public(network)) => {
                debug!(%market, %network, "the deployment's network accepts the user's key, serving the public list");
            }
            Ok(UserList::Private(list)) => {
                debug!(%market, network = %list.network, "serving the list of another network to a user");
            }
            Err(Fallback::Database(error)) => self.log_database_error(error),
            Err(reason) if reason.deserves_a_warning() => {
                warn!(%market, %reason, "a user gets the public list");
            }
            Err(reason) => debug!(%market, %reason, "a user gets the public list"),
        }
    }

    fn log_database_error(&self, error: &DatabaseError) {
        let error = error_chain(error);
        if self.database_is_down.swap(true, Ordering::Relaxed) {
            debug!(%error, "the database still does not answer");
        } else {
            warn!(%error, "users get the public list until the database answers");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_list_of_another_network_is_kept_for_a_minute() {
        let list = PrivateList {
            network: Network::Testnet,
            host: String::new(),
            symbols: Vec::new(),
            fetched_at: 0,
            sandbox: false,
        };
        let cached = CachedList {
            fetched: Instant::now(),
            list: Arc::new(list),
        };
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(cached.is_current());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!cached.is_current());
    }
}
