//! The branch itself: from a token to a list of the user's own, or to a reason why not.
//!
//! Decisions that the deployment's code left open:
//! * A user's keys are tried in this order: those that the deployment found valid, then the others; newest first. The
//!   first that can be decrypted is *the* key, and no other one is sent anywhere.
//! * It is tried on the networks in the configured order; whatever goes wrong on one, the next is asked. An account
//!   that can be read proves the key, for spot and futures alike.
//! * A network's list is the same for every user. That of the deployment's own network is everybody's, and is read
//!   like everybody's; that of another one is kept in memory for a minute, once.
//!
//! Does not write to Redis, and leaves the request the rest of its time: a walk ends within its budget.

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
use crate::product::binance::client::Client;
use crate::product::binance::signed::ApiKey;
use crate::product::symbols::prepare::{missing_anchors, prepare};
use tradebot_base::clock::{Clock, SystemClock};
use tradebot_base::error_chain;
use tradebot_base::market::{Market, Network, PerMarket};

/// How long the list of another network is kept.
const PRIVATE_LIFETIME: Duration = Duration::from_secs(60);

/// Why the branch cannot be set up.
#[derive(Debug, Error)]
pub enum UserListsError {
    /// TLS towards the database.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// TLS towards the exchange.
    #[error("the HTTP client cannot be set up")]
    Http(#[from] reqwest::Error),
}

/// See the module.
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

/// A network, and its lists if they are not everybody's.
struct NetworkClient {
    network: Network,
    client: Client,
    lists: PerMarket<Mutex<Option<CachedList>>>,
}

/// A list, and since when it is kept.
type CachedList = (Instant, Arc<PrivateList>);

impl UserLists {
    /// Sets the branch up; nothing is connected yet. `own` is the client of the deployment's network: the exchange's
    /// pauses hold for both.
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
            "users' own keys are used"
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

    /// The list of the user whom `token` names, as it stands behind `Bearer`.
    ///
    /// # Errors
    /// [`Fallback`]: the public list is to be served. It is logged already.
    pub async fn list_for(&self, token: &str, market: Market) -> Result<UserList, Fallback> {
        let outcome = match self.verifier.email(token) {
            Ok(email) => self.list_of(&email, market, &mut |_| {}).await,
            Err(error) => Err(error.into()),
        };
        self.outcomes[outcome_index(&outcome)].fetch_add(1, Ordering::Relaxed);
        self.tell(market, &outcome);
        outcome
    }

    /// The list of the user with an e-mail address, without a token and uncounted; `on_step` sees each step.
    ///
    /// # Errors
    /// [`Fallback`].
    pub async fn list_of(
        &self,
        email: &str,
        market: Market,
        on_step: &mut (dyn FnMut(LookupStep<'_>) + Send),
    ) -> Result<UserList, Fallback> {
        // Through the database and two networks: too much for its callers' futures.
        let walk = Box::pin(self.walk(email, market, Instant::now() + self.budget, on_step));
        timeout(self.budget, walk)
            .await
            .unwrap_or(Err(Fallback::OutOfTime(self.budget)))
    }

    /// How often each end came so far, by its name.
    pub fn outcomes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.outcomes.iter().map(|count| count.load(Ordering::Relaxed));
        OUTCOMES.into_iter().zip(counts)
    }

    async fn walk(
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
        for (number, side) in self.networks.iter().enumerate() {
            let left = u32::try_from(self.networks.len() - number).unwrap_or(u32::MAX);
            let share = deadline.saturating_duration_since(Instant::now()) / left;
            let asked = timeout(share, self.on_network(side, stored, &key, market, share, on_step)).await;
            match asked.unwrap_or(Err(NetworkFailure::OutOfTime(share))) {
                Ok(own) => return Ok(own),
                Err(failure) => {
                    on_step(LookupStep::Failed {
                        network: side.network,
                        failure: &failure,
                    });
                    reasons.push((side.network, failure));
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
        side: &NetworkClient,
        stored: &StoredKey,
        key: &ApiKey,
        market: Market,
        share: Duration,
        on_step: &mut (dyn FnMut(LookupStep<'_>) + Send),
    ) -> Result<UserList, NetworkFailure> {
        match self.verdicts.get(stored, side.network, Instant::now()) {
            Some(KeyVerdict::Accepted) => {}
            Some(verdict) => return Err(NetworkFailure::Remembered(verdict)),
            None => {
                let outcome = side.client.check_account(key, share).await;
                if let Some(verdict) = KeyVerdict::of(&outcome) {
                    self.verdicts.put(stored, side.network, verdict, Instant::now());
                }
                outcome?;
            }
        }
        on_step(LookupStep::Accepted {
            network: side.network,
            offset_ms: side.client.clock_offset_ms(),
        });
        if side.network == self.deployment_network {
            return Ok(UserList::Public(side.network));
        }
        self.private_list(side, market).await.map(UserList::Private)
    }

    async fn private_list(
        &self,
        side: &NetworkClient,
        market: Market,
    ) -> Result<Arc<PrivateList>, NetworkFailure> {
        // Held while fetching: whoever comes meanwhile wants the same list. Its deadline goes on for each waiter.
        let mut kept = side.lists.get(market).lock().await;
        if let Some((since, list)) = kept.as_ref()
            && since.elapsed() < PRIVATE_LIFETIME
        {
            return Ok(Arc::clone(list));
        }
        let fetched = side.client.exchange_info(market).await?;
        let symbols = prepare(fetched.listing.symbols, market, &self.symbols);
        if symbols.is_empty() {
            return Err(NetworkFailure::Empty);
        }
        let missing = missing_anchors(&symbols, &self.symbols);
        if !missing.is_empty() {
            return Err(NetworkFailure::NoAnchors(missing));
        }
        let list = Arc::new(PrivateList {
            network: side.network,
            host: fetched.base_url,
            symbols,
            fetched_at: SystemClock.now().timestamp(),
            sandbox: fetched.listing.sandbox,
        });
        *kept = Some((Instant::now(), Arc::clone(&list)));
        Ok(list)
    }

    /// One line for what an operator can do something about. Tokens come from anywhere and are debug output.
    fn tell(&self, market: Market, outcome: &Result<UserList, Fallback>) {
        if !matches!(outcome, Err(Fallback::Token(_) | Fallback::Database(_)))
            && self.database_is_down.swap(false, Ordering::Relaxed)
        {
            info!("the database answers again");
        }
        match outcome {
            Ok(UserList::Public(network)) => {
                debug!(%market, %network, "a user's key is good, the list is everybody's");
            }
            Ok(UserList::Private(list)) => {
                debug!(%market, network = %list.network, "a user gets another network's list");
            }
            Err(Fallback::Database(error)) => self.tell_of_database(error),
            Err(reason) if reason.deserves_a_warning() => {
                warn!(%market, %reason, "a user gets the public list")
            }
            Err(reason) => debug!(%market, %reason, "a user gets the public list"),
        }
    }

    fn tell_of_database(&self, error: &DatabaseError) {
        let error = error_chain(error);
        if self.database_is_down.swap(true, Ordering::Relaxed) {
            debug!(%error, "still no database");
        } else {
            warn!(%error, "users get the public list until the database answers");
        }
    }
}
