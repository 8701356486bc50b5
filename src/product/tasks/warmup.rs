//! The two warm-up tasks: each refreshes a market's list, and is retried if that fails.
//!
//! Names, the absence of arguments, the returned text and the retry options are those of the Python tasks.

#![expect(non_local_definitions, reason = "items made by the task macro")]

use crate::bridge::{self, TaskResult, task};
use crate::product::binance::error::Reason;
use crate::product::symbols::refresh::RefreshError;
use crate::product::tasks::Context;
use tradebot_base::error_chain;
use tradebot_base::market::Market;
use tradebot_wire::result::Exception;

#[task(
    name = "app.core.cache_warmup_tasks.warmup_spot_symbols_cache",
    max_retries = 5,
    max_retry_delay = 600
)]
pub async fn warmup_spot_symbols_cache() -> TaskResult<String> {
    warm_up(Market::Spot).await
}

#[task(
    name = "app.core.cache_warmup_tasks.warmup_futures_symbols_cache",
    max_retries = 5,
    max_retry_delay = 600
)]
pub async fn warmup_futures_symbols_cache() -> TaskResult<String> {
    warm_up(Market::Futures).await
}

async fn warm_up(market: Market) -> TaskResult<String> {
    let context = bridge::state::<Context>();
    match context.refresher.refresh(market).await {
        Ok(source) => Ok(format!("WARMUP_OK:{}", source.count)),
        Err(error) => {
            let exception = Exception::builtin(exception_type(&error), error_chain(&error));
            Err(bridge::fail(exception, error.retry_after()))
        }
    }
}

/// The Python exception type for an error.
fn exception_type(error: &RefreshError) -> &'static str {
    match error {
        RefreshError::Upstream(error) => match error.reason {
            Reason::Connect(_) | Reason::Body(_) => "ConnectionError",
            Reason::Deadline(_) => "TimeoutError",
            Reason::Listing(_) | Reason::TooLarge(_) => "ValueError",
            _ => "RuntimeError",
        },
        RefreshError::Empty { .. } | RefreshError::Contradiction { .. } | RefreshError::HeldBack { .. } => {
            "ValueError"
        }
        RefreshError::Cache { .. } => "ConnectionError",
    }
}

#[cfg(test)]
mod tests {
    use crate::product::tasks::task_set;
    use tradebot_base::market::Market;

    #[test]
    fn the_registered_names_are_those_that_producers_send() {
        let expected: std::collections::BTreeSet<_> = Market::ALL.map(Market::warmup_task).into();
        let registered = task_set().names();
        assert_eq!(
            registered
                .iter()
                .map(String::as_str)
                .collect::<std::collections::BTreeSet<_>>(),
            expected
        );
    }
}
