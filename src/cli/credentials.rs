//! `credentials`: whether users' own keys work, told step by step and without any secret.

use std::io::Write;

use anyhow::{Context, Result, bail};
use clap::Subcommand;

use super::{both, read_logs, start_logs};
use crate::config::{BinanceConfig, SymbolsConfig};
use crate::product::binance::client::Client;
use crate::product::credentials::outcome::{Fallback, LookupStep, UserList};
use crate::product::credentials::protect;
use crate::product::credentials::settings::CredentialSettings;
use crate::product::credentials::user_lists::UserLists;
use tradebot_base::config::{ProcessEnvironment, Reader};
use tradebot_base::error_chain;
use tradebot_base::market::Market;

/// Shows what the service makes of a user's own exchange key.
///
/// Reads the database and asks the exchange, as a request of that user would; writes nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: tradebot-symbols credentials check --email someone@example.com")]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Walks from the user to a list, and says how each step ended
    Check(Check),
}

#[derive(Debug, clap::Args)]
struct Check {
    /// The user's e-mail address, exactly as it is stored
    #[arg(long)]
    email: String,
    /// The list to ask for
    #[arg(long, value_enum, default_value_t = MarketName::Spot)]
    market: MarketName,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum MarketName {
    Spot,
    Futures,
}

impl From<MarketName> for Market {
    fn from(name: MarketName) -> Self {
        match name {
            MarketName::Spot => Self::Spot,
            MarketName::Futures => Self::Futures,
        }
    }
}

pub(super) async fn run(args: Args) -> Result<()> {
    let Verb::Check(check) = args.verb;
    let mut reader = Reader::new(&ProcessEnvironment);
    let settings = CredentialSettings::read(&mut reader);
    let (binance, symbols) = (BinanceConfig::read(&mut reader), SymbolsConfig::read(&mut reader));
    // The steps are the output; a log line between them would say the same again.
    let ((), logs) = both(reader.finish(), read_logs(None))?;
    start_logs(&logs)?;
    let enabled = match settings {
        CredentialSettings::On(enabled) => *enabled,
        CredentialSettings::Off(why) => bail!("users' own keys are not used: {why}"),
    };
    protect::forbid_dumps().context("core dumps cannot be forbidden")?;
    say(&format!("database       {}", enabled.database))?;
    let client = Client::new(binance, tradebot_base::random::Random::system()).context("the HTTP client")?;
    let branch = UserLists::new(enabled, &client, symbols)?;
    let mut told = Ok(());
    let outcome = branch
        .list_of(&check.email, check.market.into(), &mut |step| {
            if told.is_ok() {
                told = say(&line(&step));
            }
        })
        .await;
    told?;
    match outcome {
        Ok(own) => say(&format!("list           {}", outcome_line(&own))),
        Err(reason) => {
            say(&format!("list           the public one: {}", in_short(&reason)))?;
            bail!("no list of the user's own")
        }
    }
}

fn line(step: &LookupStep<'_>) -> String {
    match step {
        LookupStep::User { id, keys } => format!("user           {id}, active, {keys} stored keys"),
        LookupStep::Skipped { key, reason } => format!("key {key:<10} skipped: {reason}"),
        LookupStep::Decrypted { key, is_valid: true } => format!("key {key:<10} decrypted"),
        LookupStep::Decrypted { key, .. } => {
            format!("key {key:<10} decrypted; the deployment has not found it valid")
        }
        LookupStep::Accepted {
            network,
            offset_ms: Some(ms),
        } => {
            format!("{network:<14} accepts the key; its clock is {ms} ms ahead of this one")
        }
        LookupStep::Accepted { network, .. } => format!("{network:<14} accepts the key"),
        LookupStep::Failed { network, failure } => format!("{network:<14} {}", error_chain(failure)),
    }
}

fn outcome_line(own: &UserList) -> String {
    match own {
        UserList::Public(network) => {
            format!("the public one: {network} is the network of this deployment")
        }
        UserList::Private(list) => {
            let sandbox = if list.sandbox {
                "; SANDBOX, nothing in it is real"
            } else {
                ""
            };
            format!(
                "the user's own: {} symbols of {} from {}{sandbox}",
                list.symbols.len(),
                list.network,
                list.host
            )
        }
    }
}

/// The networks have their own lines already.
fn in_short(reason: &Fallback) -> String {
    match reason {
        Fallback::Networks { .. } => "no network gave one for the key".into(),
        other => error_chain(other),
    }
}

fn say(text: &str) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{text}").context("cannot write to standard output")
}
