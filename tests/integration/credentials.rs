//! Users' own keys: rows, encrypted keys and tokens that Python wrote, a real PostgreSQL, and an exchange that checks
//! signatures.

mod canary;
mod check;
pub(crate) mod database;
mod http;
mod keys;
mod networks;
mod tokens;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tradebot_base::config::{Reader, Vars};
use tradebot_base::market::Market;
use tradebot_symbols::internals::Client;
use tradebot_symbols::internals::CredentialSettings;
use tradebot_symbols::internals::UserLists;
use tradebot_symbols::internals::{BinanceConfig, SymbolsConfig};
use tradebot_symbols::internals::{Fallback, UserList};
use tradebot_test_support::{Database, PostgresServer, Python, Reply, ScriptedExchange, stretched};

use crate::world::{exchange_info, path};

/// What signs the tokens.
const SECRET_KEY: &str = "canary-signing-key-5b1f0c7e9d2a4863b7e0a1c2";
/// For the whole branch; a busy machine gets more.
const BUDGET: Duration = Duration::from_secs(8);
/// What anything may take beyond the time it is allowed, on a busy machine.
const GRACE: Duration = Duration::from_secs(5);

/// A database that Python filled, and two networks of the exchange.
struct Scene {
    filled: Arc<Filled>,
    testnet: ScriptedExchange,
    mainnet: ScriptedExchange,
}

/// What Python left behind.
struct Filled {
    database: Database,
    fernet_keys: String,
    tokens: BTreeMap<String, String>,
}

impl Filled {
    /// Has Python carry out an order of `tests/python/credentials.py`.
    fn new(database: Database, order: &Value) -> Self {
        let (order, url) = (order.to_string(), database.url());
        let filled = Python::CREDENTIALS.script("credentials.py", &[&order], &[("DATABASE_URL", &url)]);
        let texts = |value: &Value| -> Vec<String> {
            let list = value.as_array().into_iter().flatten();
            list.map(|it| it.as_str().expect("a text").to_owned()).collect()
        };
        let tokens = filled["tokens"].as_object().into_iter().flatten();
        Self {
            database,
            fernet_keys: texts(&filled["fernet_keys"]).join(","),
            tokens: tokens
                .map(|(name, token)| (name.clone(), token.as_str().expect("a token").to_owned()))
                .collect(),
        }
    }

    /// One user with one key, both called `one`: for tests that only read it. Made again after its last user has gone.
    fn one_user() -> Arc<Self> {
        static SHARED: Mutex<Weak<Filled>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let order = json!({
                "users": [{"email": "one", "keys": [key("one")]}],
                "tokens": {"one": {"claims": {"sub": "one", "exp": 3600}, "key": SECRET_KEY}},
            });
            let filled = Arc::new(Self::new(PostgresServer::shared().database(), &order));
            *shared = Arc::downgrade(&filled);
            filled
        })
    }
}

impl Scene {
    /// Has Python carry out an order of `tests/python/credentials.py`.
    async fn new(order: Value) -> Self {
        Self::over(Arc::new(Filled::new(PostgresServer::shared().database(), &order))).await
    }

    /// One user with one key, both called `one`; the database is not to be changed.
    async fn one_user() -> Self {
        Self::over(Filled::one_user()).await
    }

    async fn over(filled: Arc<Filled>) -> Self {
        let scene = Self {
            filled,
            testnet: ScriptedExchange::start().await,
            mainnet: ScriptedExchange::start().await,
        };
        for market in Market::ALL {
            let list = |base| {
                Reply::json(exchange_info(&[
                    ("BTC", "USDT", "TRADING"),
                    ("ETH", "USDT", "TRADING"),
                    (base, "USDT", "TRADING"),
                ]))
            };
            scene.testnet.always(path(market), list("TEST"));
            scene.mainnet.always(path(market), list("MAIN"));
        }
        // Both have accounts, whether they know any key or not.
        scene.testnet.set_clock_ahead(0);
        scene.mainnet.set_clock_ahead(0);
        scene
    }

    fn token(&self, name: &str) -> &str {
        &self.filled.tokens[name]
    }

    fn environment(&self) -> Environment {
        let budget = stretched(BUDGET).as_secs_f64().to_string();
        let environment = Environment::default()
            .with("DATABASE_URL", &self.filled.database.url())
            .with("DATABASE_TIMEOUT_SECONDS", "3")
            .with("SECRET_KEY", SECRET_KEY)
            .with("FERNET_KEY", &self.filled.fernet_keys)
            .with("CREDENTIALS_TIMEOUT_SECONDS", &budget)
            .with("BINANCE_RETRY_BACKOFF_BASE", "0.01");
        environment
            .with("BINANCE_SPOT_BASE_URL", &self.mainnet.base_url())
            .with("BINANCE_FUTURES_BASE_URL", &self.mainnet.base_url())
            .with("BINANCE_SPOT_TESTNET_BASE_URL", &self.testnet.base_url())
            .with("BINANCE_FUTURES_TESTNET_BASE_URL", &self.testnet.base_url())
    }

    fn branch(&self) -> UserLists {
        self.environment().branch()
    }
}

/// Variables, as a process has them.
#[derive(Clone, Default)]
struct Environment(BTreeMap<String, String>);

impl Vars for Environment {
    fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }
}

impl Environment {
    fn with(mut self, name: &str, value: &str) -> Self {
        self.0.insert(name.to_owned(), value.to_owned());
        self
    }

    fn branch(&self) -> UserLists {
        let mut reader = Reader::new(self);
        let settings = CredentialSettings::read(&mut reader);
        let (binance, symbols) = (BinanceConfig::read(&mut reader), SymbolsConfig::read(&mut reader));
        reader.finish().expect("no mistakes");
        let CredentialSettings::On(enabled) = settings else {
            panic!("{settings:?}");
        };
        let client = Client::new(binance, tradebot_base::random::Random::system()).expect("a client");
        UserLists::new(*enabled, &client, symbols).expect("a branch")
    }
}

/// A key as the exchange hands them out, 64 letters and digits, that can be recognised.
fn api_key(name: &str) -> String {
    format!("canarykey{name:x<55}")
}

/// The secret of a key.
fn secret_of(name: &str) -> String {
    format!("canarysecret{name:y<52}")
}

/// How a key stands in an order.
fn key(name: &str) -> Value {
    json!({"api_key": api_key(name), "secret_key": secret_of(name)})
}

/// The same with further members.
fn key_with(name: &str, members: Value) -> Value {
    let mut key = key(name);
    let (Value::Object(key_members), Value::Object(members)) = (&mut key, members) else {
        unreachable!("both are objects");
    };
    key_members.extend(members);
    key
}

fn know(exchange: &ScriptedExchange, name: &str) {
    exchange.know_key(&api_key(name), &secret_of(name));
}

/// In one line, for comparing.
fn told(outcome: &Result<UserList, Fallback>) -> String {
    match outcome {
        Ok(UserList::Public(network)) => format!("public: {network}"),
        Ok(UserList::Private(list)) => {
            let names: Vec<_> = list.symbols.iter().map(|it| it.symbol.as_str()).collect();
            format!("{}: {}", list.network, names.join(" "))
        }
        Err(reason) => tradebot_base::error_chain(reason),
    }
}

/// Looks a user up by e-mail address.
async fn look_up(branch: &UserLists, email: &str) -> String {
    told(&branch.list_of(email, Market::Spot, &mut |_| {}).await)
}

/// What something took, and that it was not too long.
async fn in_time<T>(limit: Duration, work: impl Future<Output = T>) -> T {
    let started = Instant::now();
    let done = work.await;
    let took = started.elapsed();
    assert!(
        took < limit + stretched(GRACE),
        "it took {took:?}, with {limit:?} allowed"
    );
    done
}
