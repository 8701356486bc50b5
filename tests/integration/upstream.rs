//! An exchange in trouble: a good list stays unchanged; the failure is counted, logged and retried.

mod attempts;
mod bad_answers;
mod bad_bodies;
mod clocks;
mod doubtful;
mod odd_entries;
mod pauses;
mod way_out;

use tradebot_base::market::Market;
use tradebot_symbols::internals::CacheKeys;
use tradebot_test_support::{Process, Reply};

use crate::world::{Lists, PATIENCE, World, path, warmup};

/// When the good list seems to have been written: a rewrite within the same second would be seen too.
const LONG_AGO: &str = "1700000000";

/// Lets a worker write a good list for the market, and returns what is stored then.
async fn with_good_list(world: &World, market: Market) -> Lists {
    world.exchange_lists(market);
    let id = world.enqueue(warmup(market)).await.id().to_owned();
    world.result(&id, "SUCCESS").await;
    world.set(&CacheKeys(market).last_refresh(), LONG_AGO).await;
    let lists = world.lists(market).await;
    assert_eq!(lists.primary.as_deref(), Some(crate::world::GOOD_TEXT));
    assert_eq!((&lists.last_good, lists.successes), (&lists.primary, 1));
    lists
}

/// The line that tells the end of one run says which market, which address and why.
fn assert_told(worker: &Process, id: &str, market: Market, address: &str, reason: &str) {
    let task = market.warmup_task();
    let beginning = format!("task failed task.name=\"{task}\" task.id=\"{id}\"");
    let line = worker.wait_for_line(&beginning, PATIENCE);
    let (_, error) = line.split_once(" error=").unwrap_or_default();
    for part in [market.name(), address, reason] {
        assert!(error.contains(part), "`{part}` is missing: {line}");
    }
}

/// One bad answer, and what the worker makes of it.
struct Bad {
    what: &'static str,
    reply: Reply,
    /// Part of the reason that is logged and stored.
    reason: &'static str,
}

/// What bad answers of one kind have in common.
#[derive(Clone, Copy)]
struct Kind {
    /// The Python exception that a client sees.
    exception: &'static str,
    /// How often the exchange is asked before the refresh gives up.
    requests: usize,
}

fn bad(what: &'static str, reply: Reply, reason: &'static str) -> Bad {
    Bad { what, reply, reason }
}

/// The exception of a refresh that made all its attempts, as many as there are without configuration.
const fn in_vain(exception: &'static str) -> Kind {
    Kind {
        exception,
        requests: 3,
    }
}

/// The exception of a refresh after an answer that no second attempt would change.
const fn at_once(exception: &'static str) -> Kind {
    Kind {
        exception,
        requests: 1,
    }
}

fn html(status: u16, text: &str) -> Reply {
    Reply::status(
        status,
        format!("<html>\n<head><title>{text}</title></head>\n</html>"),
    )
    .header("Content-Type", "text/html")
}

/// A worker and two good lists, which no bad answer may change.
struct Trial {
    world: World,
    worker: Process,
    good: Vec<(Market, Lists)>,
}

impl Trial {
    async fn start() -> Self {
        let world = World::new().await;
        let worker = world.start_worker(&["-c", "2"]);
        let mut good = Vec::new();
        for market in Market::ALL {
            good.push((market, with_good_list(&world, market).await));
        }
        Self { world, worker, good }
    }

    /// Gives both markets each answer; nothing but the error counter moves.
    async fn assert_refused(&self, kind: Kind, cases: impl IntoIterator<Item = Bad>) {
        for case in cases {
            for (market, lists) in &self.good {
                self.assert_one_refused(kind, &case, *market, lists).await;
            }
        }
    }

    async fn assert_one_refused(&self, kind: Kind, case: &Bad, market: Market, lists: &Lists) {
        let world = &self.world;
        let (errors, asked) = (world.errors(market).await, world.exchange.count(path(market)));
        world.exchange.always(path(market), case.reply.clone());
        let (id, result) = world.run_last_try(market).await;
        let what = format!("{}, {market}", case.what);
        assert_eq!(result["status"], "FAILURE", "{what}: {result}");
        assert_eq!(result["result"]["exc_type"], kind.exception, "{what}: {result}");
        assert_eq!(result["result"]["exc_module"], "builtins", "{what}");
        let message = result["result"]["exc_message"][0].as_str().unwrap_or_default();
        assert!(message.contains(case.reason), "{what}: {message}");
        assert_told(&self.worker, &id, market, &world.exchange.base_url(), case.reason);
        assert_eq!(world.lists(market).await, *lists, "{what}");
        assert_eq!(world.errors(market).await, errors + 1, "{what}");
        assert_eq!(
            world.exchange.count(path(market)) - asked,
            kind.requests,
            "{what}"
        );
    }
}
