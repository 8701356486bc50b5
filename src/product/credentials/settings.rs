//! Environment variables of the lists for users with their own keys.

use std::time::Duration;

use super::database_url::DatabaseUrl;
use super::fernet::Keyring;
use super::jwt::{HmacAlgorithm, TokenVerifier};
use crate::config::is_production;
use tradebot_base::config::Reader;
use tradebot_base::market::Network;
use tradebot_base::secret::Secret;

/// Shorter keys can be guessed by brute force.
const SHORTEST_SECRET_KEY: usize = 16;
/// Placeholders that people forget to replace in `SECRET_KEY`, without punctuation.
const PLACEHOLDERS: &[&str] = &[
    "changeme",
    "changethis",
    "changeit",
    "defaultkey",
    "defaultsecret",
    "development",
    "devkey",
    "devsecret",
    "example",
    "insecure",
    "jwtsecret",
    "mykey",
    "mysecret",
    "notasecret",
    "placeholder",
    "replaceme",
    "secretkey",
    "secretpassword",
    "supersecret",
    "testkey",
    "testsecret",
    "yourkey",
    "yoursecret",
];

/// Whether and how to use users' own keys.
#[derive(Debug)]
pub enum CredentialSettings {
    /// Off, with the reason for the log and `credentials check`.
    Off(String),
    /// On.
    On(Box<EnabledCredentials>),
}

/// Settings of lookups.
#[derive(Debug)]
pub struct EnabledCredentials {
    /// The database with users and their keys.
    pub database: DatabaseUrl,
    /// Limit for one database query.
    pub database_timeout: Duration,
    /// Maximum number of database connections.
    pub pool_size: usize,
    /// Verifies tokens.
    pub verifier: TokenVerifier,
    /// Decrypts stored keys.
    pub keyring: Keyring,
    /// Networks to try a key on, in order.
    pub networks: Vec<Network>,
    /// Limit for the whole lookup.
    pub budget: Duration,
    /// Weak keys, for the log.
    pub warnings: Vec<String>,
}

impl CredentialSettings {
    /// Reads the variables. In production with a database, a missing or weak key is a mistake.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let production = is_production(reader);
        let networks = networks(reader);
        let budget = reader.seconds("CREDENTIALS_TIMEOUT_SECONDS");
        let database_timeout = reader.seconds("DATABASE_TIMEOUT_SECONDS");
        let pool_size = reader.number("DATABASE_POOL_SIZE", 1..=100);
        let algorithm = algorithm(reader);
        let Some(url) = reader.secret("DATABASE_URL") else {
            return Self::Off("DATABASE_URL is not set".into());
        };
        let database = DatabaseUrl::parse(&url)
            .map_err(|error| reader.complain_of("DATABASE_URL", error))
            .ok();
        let secret_key = reader.secret("SECRET_KEY");
        let keyring = reader.secret("FERNET_KEY").map(|keys| Keyring::parse(&keys));
        if let Some(Err(error)) = &keyring {
            reader.complain_of("FERNET_KEY", error);
        }
        let findings = KeyFindings::read(reader);
        if production {
            findings.complain(reader);
        }
        let (Some(mut database), Some(secret_key), Some(Ok(keyring)), Some(algorithm)) =
            (database, secret_key, keyring, algorithm)
        else {
            return Self::Off(findings.why_off());
        };
        if let Some(file) = reader.optional("PGSSLROOTCERT") {
            database.root_certificates.get_or_insert(file.into());
        }
        Self::On(Box::new(EnabledCredentials {
            database,
            database_timeout,
            pool_size: usize::try_from(pool_size).unwrap_or(1),
            verifier: TokenVerifier::new(&secret_key, algorithm),
            keyring,
            networks,
            budget,
            warnings: findings
                .weak
                .into_iter()
                .map(|(name, why)| format!("{name}: {why}"))
                .collect(),
        }))
    }
}

/// Missing and weak keys.
#[derive(Default)]
pub(crate) struct KeyFindings {
    /// The missing ones.
    pub missing: Vec<&'static str>,
    /// Those that others may know or guess, with the reason.
    pub weak: Vec<(&'static str, &'static str)>,
}

impl KeyFindings {
    /// Reads and judges the keys.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        let secret_key = reader.secret("SECRET_KEY").map(|key| weakness(&key));
        let fernet_key = reader.secret("FERNET_KEY").map(|keys| {
            let well_known = Keyring::parse(&keys).is_ok_and(|keyring| keyring.has_well_known_key());
            well_known.then_some("it is a well-known value")
        });
        let mut found = Self::default();
        for (name, weakness) in [("SECRET_KEY", secret_key), ("FERNET_KEY", fernet_key)] {
            match weakness {
                None => found.missing.push(name),
                Some(why) => found.weak.extend(why.map(|why| (name, why))),
            }
        }
        found
    }

    fn complain(&self, reader: &mut Reader<'_>) {
        for name in &self.missing {
            reader.complain_of(
                name,
                "it is missing, but ENVIRONMENT=production with a DATABASE_URL requires it",
            );
        }
        for (name, why) in &self.weak {
            reader.complain_of(
                name,
                format_args!("{why}, which ENVIRONMENT=production does not allow"),
            );
        }
    }

    fn why_off(&self) -> String {
        if self.missing.is_empty() {
            "the configuration has mistakes".into()
        } else {
            format!("DATABASE_URL is set, but not {}", self.missing.join(" and not "))
        }
    }
}

fn algorithm(reader: &mut Reader<'_>) -> Option<HmacAlgorithm> {
    let name = reader.text("ALGORITHM");
    let algorithm = name.parse().ok();
    if algorithm.is_none() {
        reader.complain("ALGORITHM", &name, "`HS256`, `HS384` or `HS512`");
    }
    algorithm
}

fn networks(reader: &mut Reader<'_>) -> Vec<Network> {
    const NAME: &str = "BINANCE_CREDENTIAL_NETWORKS";
    let names = reader.list(NAME);
    let known = |name: &String| {
        [Network::Testnet, Network::Mainnet]
            .into_iter()
            .find(|it| it.name() == name)
    };
    let networks: Vec<Network> = names.iter().filter_map(known).collect();
    let repeated = networks
        .iter()
        .enumerate()
        .any(|(place, it)| networks[..place].contains(it));
    if networks.is_empty() || networks.len() != names.len() || repeated {
        reader.complain(
            NAME,
            &names.join(","),
            "`testnet`, `mainnet`, or both in either order",
        );
    }
    networks
}

/// Why a key is too weak to sign tokens, if it is.
fn weakness(key: &Secret) -> Option<&'static str> {
    let key = key.expose();
    let letters: zeroize::Zeroizing<String> = zeroize::Zeroizing::new(
        key.chars()
            .filter(char::is_ascii_alphanumeric)
            .map(|c| c.to_ascii_lowercase())
            .collect(),
    );
    if key.len() < SHORTEST_SECRET_KEY {
        return Some("it is shorter than 16 bytes");
    }
    let uniform = key.bytes().all(|byte| Some(byte) == key.bytes().next());
    if uniform
        || PLACEHOLDERS
            .iter()
            .any(|placeholder| letters.contains(placeholder))
    {
        return Some("it is a well-known value");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use tradebot_base::config::ConfigError;

    const DATABASE: &str = "postgresql+asyncpg://u:canary@db/t";
    const GOOD_KEY: &str = "canary-5b1f0c7e9d2a4863b7e0";
    const GOOD_FERNET: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";

    type Pair = (&'static str, &'static str);

    fn read(vars: &[Pair]) -> (CredentialSettings, Result<(), ConfigError>) {
        let vars: BTreeMap<_, _> = vars.iter().copied().collect();
        let mut reader = Reader::new(&vars);
        let settings = CredentialSettings::read(&mut reader);
        (settings, reader.finish())
    }

    #[test]
    fn without_a_database_it_is_off_and_says_so() {
        let (settings, mistakes) = read(&[("ENVIRONMENT", "production")]);
        assert!(mistakes.is_ok());
        assert!(matches!(settings, CredentialSettings::Off(why) if why == "DATABASE_URL is not set"));
    }

    #[test]
    fn defaults_are_those_of_the_deployment() {
        let (settings, mistakes) = read(&[
            ("ENVIRONMENT", "production"),
            ("DATABASE_URL", DATABASE),
            ("SECRET_KEY", GOOD_KEY),
            ("FERNET_KEY", GOOD_FERNET),
        ]);
        assert!(mistakes.is_ok(), "{mistakes:?}");
        let CredentialSettings::On(on) = settings else {
            panic!("{settings:?}");
        };
        assert_eq!(on.networks, [Network::Testnet, Network::Mainnet]);
        assert_eq!((on.pool_size, on.budget), (5, Duration::from_secs(4)));
        assert!(on.warnings.is_empty());
        assert!(!format!("{on:?}").contains("canary"), "{on:?}");
    }

    #[test]
    fn production_refuses_missing_and_well_known_keys_and_says_which() {
        let production = ("ENVIRONMENT", "Production");
        let base = [production, ("DATABASE_URL", DATABASE)];
        let cases: [(&[Pair], &[&str]); 7] = [
            (&[], &["SECRET_KEY", "FERNET_KEY"]),
            (&[("SECRET_KEY", GOOD_KEY)], &["FERNET_KEY"]),
            (&[("FERNET_KEY", GOOD_FERNET)], &["SECRET_KEY"]),
            (
                &[
                    ("SECRET_KEY", "your-secret-key-here"),
                    ("FERNET_KEY", GOOD_FERNET),
                ],
                &["SECRET_KEY"],
            ),
            (
                &[("SECRET_KEY", "canary"), ("FERNET_KEY", GOOD_FERNET)],
                &["SECRET_KEY"],
            ),
            (
                &[
                    ("SECRET_KEY", "aaaaaaaaaaaaaaaaaaaaaaaa"),
                    ("FERNET_KEY", GOOD_FERNET),
                ],
                &["SECRET_KEY"],
            ),
            (
                &[
                    ("SECRET_KEY", GOOD_KEY),
                    ("FERNET_KEY", "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4="),
                ],
                &["FERNET_KEY"],
            ),
        ];
        for (keys, blamed) in cases {
            let vars: Vec<_> = base.iter().chain(keys).copied().collect();
            let text = read(&vars).1.unwrap_err().to_string();
            for name in ["SECRET_KEY", "FERNET_KEY"] {
                assert_eq!(
                    text.contains(&format!("{name} cannot be used")),
                    blamed.contains(&name),
                    "{keys:?}: {text}"
                );
            }
            assert!(!text.contains("canary") && !text.contains("cw_0"), "{text}");
        }
    }

    #[test]
    fn elsewhere_a_missing_key_turns_it_off_and_a_well_known_one_is_warned_of() {
        let (settings, mistakes) = read(&[("DATABASE_URL", DATABASE), ("SECRET_KEY", GOOD_KEY)]);
        assert!(mistakes.is_ok());
        assert!(
            matches!(settings, CredentialSettings::Off(why) if why == "DATABASE_URL is set, but not FERNET_KEY")
        );
        let (settings, mistakes) = read(&[
            ("DATABASE_URL", DATABASE),
            ("SECRET_KEY", "short"),
            ("FERNET_KEY", GOOD_FERNET),
        ]);
        assert!(mistakes.is_ok());
        let CredentialSettings::On(on) = settings else {
            panic!("{settings:?}");
        };
        assert_eq!(on.warnings, ["SECRET_KEY: it is shorter than 16 bytes"]);
    }

    #[test]
    fn mistakes_are_told_without_secrets() {
        let (settings, mistakes) = read(&[
            ("DATABASE_URL", "postgresql://u:canary@canary@db/t"),
            ("SECRET_KEY", GOOD_KEY),
            ("FERNET_KEY", "canary"),
            ("ALGORITHM", "RS256"),
            ("BINANCE_CREDENTIAL_NETWORKS", "testnet,testnet"),
        ]);
        assert!(matches!(settings, CredentialSettings::Off(_)));
        let text = mistakes.unwrap_err().to_string();
        for part in [
            "DATABASE_URL cannot be used: its host is unclear",
            "FERNET_KEY cannot be used: a Fernet key is",
            "ALGORITHM is `RS256`",
            "BINANCE_CREDENTIAL_NETWORKS is `testnet,testnet`",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("canary"), "{text}");
    }

    #[test]
    fn one_network_alone_is_allowed() {
        for (list, expected) in [
            ("mainnet", &[Network::Mainnet][..]),
            ("mainnet, testnet", &[Network::Mainnet, Network::Testnet]),
        ] {
            let vars = BTreeMap::from([("BINANCE_CREDENTIAL_NETWORKS", list)]);
            let mut reader = Reader::new(&vars);
            assert_eq!(networks(&mut reader), expected);
            assert!(reader.finish().is_ok());
        }
    }
}
