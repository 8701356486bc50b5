//! `credentials`: checks a user's exchange keys step by step, without showing a secret.

use anyhow::{Context, Result, bail};
use clap::Subcommand;

use super::{say, start_logs};
use crate::config::{BinanceConfig, SymbolsConfig};
use crate::product::binance::client::Client;
use crate::product::credentials::outcome::{Fallback, LookupStep, UserList};
use crate::product::credentials::settings::CredentialSettings;
use crate::product::credentials::user_lists::UserLists;
use tradebot_base::config::{ProcessEnvironment, Reader};
use tradebot_base::error_chain;
use tradebot_base::market::Market;
use tradebot_base::random::Random;

/// Checks whether a user's exchange key works.
///
/// Reads the database and sends requests to the exchange, as an HTTP request of that user would. Writes nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: tradebot-symbols credentials check --email someone@example.com")]
pub(super) struct CredentialsCommand {
    #[command(subcommand)]
    verb: CredentialsVerb,
}

#[derive(Debug, Subcommand)]
enum CredentialsVerb {
    /// Follows the user's keys to a list, and reports each step
    Check(Check),
}

#[derive(Debug, clap::Args)]
struct Check {
    /// The user's e-mail address, exactly as stored
    #[arg(long)]
    email: String,
    /// The list to request
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

pub(super) async fn run(args: CredentialsCommand) -> Result<()> {
    let CredentialsVerb::Check(check) = args.verb;
    let mut reader = Reader::new(&ProcessEnvironment);
    let settings = CredentialSettings::read(&mut reader);
    let (binance, symbols) = (BinanceConfig::read(&mut reader), SymbolsConfig::read(&mut reader));
    start_logs(reader, None)?;
    let enabled = match settings {
        CredentialSettings::On(enabled) => *enabled,
        CredentialSettings::Off(why) => bail!("users' own keys are not used: {why}"),
    };
    say(&format!("database       {}", enabled.database))?;
    let client = Client::new(binance, Random::system()).context("cannot set up the HTTP client")?;
    let branch = UserLists::new(enabled, &client, symbols)?;
    let mut written = Ok(());
    let outcome = branch
        .list_of(&check.email, check.market.into(), &mut |step| {
            if written.is_ok() {
                written = say(&line(&step));
            }
        })
        .await;
    written?;
    match outcome {
        Ok(own) => say(&format!("list           {}", outcome_line(&own))),
        Err(reason) => {
            say(&format!("list           the public one: {}", in_short(&reason)))?;
            bail!("the user does not get a private list")
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

/// Omits what the lines of the networks have already reported.
fn in_short(reason: &Fallback) -> String {
    match reason {
        Fallback::Networks { .. } => "no network returned one for the key".into(),
        other => error_chain(other),
    }
}
