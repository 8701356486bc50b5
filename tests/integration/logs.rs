//! Field names of log lines: `docker/logs.md`, the code and real output agree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use base64::prelude::{BASE64_STANDARD, Engine};
use chrono::TimeDelta;
use serde_json::{Value, json};
use tradebot_base::market::Market;
use tradebot_test_support::{Process, ProcessBuilder, Reply, Signal, bin, eventually};

use crate::world::{PATIENCE, QUEUE, World, exchange_info, now, path, tried, warmup};

const DOCUMENT: &str = include_str!("../../docker/logs.md");
/// What every line has.
const FRAME: [&str; 4] = ["timestamp", "level", "target", "message"];
/// Of trouble that other tests make: with users, servers, other workers, workflows and remote control.
const ELSEWHERE: &[&str] = &[
    "answer",
    "state",
    "binding",
    "channel",
    "channels",
    "child",
    "coding",
    "command",
    "concerns",
    "crashes",
    "database",
    "delivery.tag",
    "direction",
    "dropped",
    "exchange",
    "group",
    "hard",
    "http.wanted_connections",
    "key",
    "matcher",
    "messages",
    "missed",
    "more",
    "networks",
    "node",
    "offset_ms",
    "open_files",
    "pattern",
    "peer",
    "pid",
    "plan",
    "rate_limit",
    "redis",
    "revoked",
    "seconds",
    "sep",
    "slots",
    "soft",
    "status",
    "tasks",
    "times",
    "tls",
    "waiting",
    "waiting_seconds",
    "worker.id",
];

type Names = BTreeSet<String>;

/// The names between backticks.
fn quoted(text: &str) -> Names {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The cells of the rows of the table under a heading row that begins like this.
fn rows(heading: &str) -> impl Iterator<Item = Vec<&'static str>> {
    let lines = DOCUMENT
        .lines()
        .skip_while(move |line| !line.starts_with(heading));
    let table = lines.skip(2).take_while(|line| line.starts_with('|'));
    table.map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
}

fn documented() -> Names {
    rows("| field |").flat_map(|row| quoted(row[0])).collect()
}

/// What each outcome's event must have, and what it may have.
fn outcomes() -> BTreeMap<String, (Names, Names)> {
    let each = rows("| `outcome` |").flat_map(|row| {
        let (always, sometimes) = row[3].split_once(", and ").unwrap_or((row[3], ""));
        let fields = (quoted(always), quoted(sometimes));
        quoted(row[0])
            .into_iter()
            .map(move |outcome| (outcome, fields.clone()))
    });
    each.collect()
}

/// The fields that the events in a source file name.
fn named(source: &str) -> Names {
    let mut names = Names::new();
    for level in ["trace", "debug", "info", "warn", "error"] {
        let call = format!("{level}!(");
        for (at, _) in source.match_indices(&call) {
            let is_whole = !source[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_');
            if is_whole {
                names.extend(fields(&source[at + call.len()..]));
            }
        }
    }
    names
}

/// The fields of one event: the arguments before its message.
fn fields(arguments: &str) -> Names {
    let mut names = Names::new();
    let (mut depth, mut start, mut in_text, mut escaped) = (0_i32, 0, false, false);
    for (at, letter) in arguments.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if in_text => escaped = true,
            // The message: no field follows it.
            '"' if !in_text && depth == 0 && arguments[start..at].trim().is_empty() => break,
            '"' => in_text = !in_text,
            _ if in_text => {}
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth > 0 => depth -= 1,
            ',' | ')' if depth == 0 => {
                let argument = arguments[start..at].trim().trim_start_matches(['%', '?']);
                let name = argument.split('=').next().unwrap_or_default().trim();
                if !name.is_empty() && !name.starts_with("target:") {
                    names.insert(name.to_owned());
                }
                start = at + 1;
                if letter == ')' {
                    break;
                }
            }
            _ => {}
        }
    }
    names
}

fn sources(folder: &Path, found: &mut Names) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.extend(named(&fs::read_to_string(&path).expect("a source file")));
        }
    }
}

#[test]
fn the_table_has_the_fields_that_the_code_names() {
    assert_eq!(
        named(r#"info!(%a, b.c = f(1, "),"), ?d, "x {y}", z = 1); my_warn!(e, ""); error!("f, g")"#),
        ["a", "b.c", "d"].map(str::to_owned).into()
    );
    let mut found = Names::new();
    for folder in ["src", "beat/src"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut found);
    }
    let documented = documented();
    let undocumented: Vec<_> = found.difference(&documented).collect();
    let gone: Vec<_> = documented.difference(&found).collect();
    assert!(
        undocumented.is_empty() && gone.is_empty(),
        "docker/logs.md lacks {undocumented:?}, and no event has {gone:?}"
    );
}

fn logging(program: ProcessBuilder) -> Process {
    program
        .env("LOG_FORMAT", "json")
        .env("LOG_LEVEL", "info,tradebot_symbols=debug,tradebot_beat=debug")
        .spawn()
}

/// The events that our own modules logged.
fn events(process: &Process) -> Vec<Value> {
    let stderr = process.stderr();
    let lines = stderr.lines().map(|line| {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("no JSON ({error}): {line}"))
    });
    let ours = |event: &Value| {
        event["target"]
            .as_str()
            .is_some_and(|target| target.starts_with("tradebot"))
    };
    lines.filter(ours).collect()
}

fn names(event: &Value) -> Names {
    let members = event.as_object().expect("an object").keys();
    members
        .filter(|name| !FRAME.contains(&name.as_str()))
        .cloned()
        .collect()
}

/// One market's list with an unreadable entry and a repeated one.
fn odd_list() -> String {
    let btc = ("BTC", "USDT", "TRADING");
    exchange_info(&[("ETH", "USDT", "TRADING"), btc, btc]).replacen("[{", "[7, {", 1)
}

async fn until_logged(process: &Process, name: &str, value: &str) {
    eventually(&format!("{name}={value}"), PATIENCE, async || {
        let text = format!(r#""{name}":"{value}""#);
        process.stderr().contains(&text).then_some(())
    })
    .await;
}

/// A worker, an endpoint, a beat and a sandbox, through every outcome that a task can have.
async fn everything_that_happens() -> [Process; 4] {
    let world = World::new().await;
    let (spot, futures) = (path(Market::Spot), path(Market::Futures));
    let heavy = Reply::json(odd_list()).header("X-MBX-USED-WEIGHT-1M", "1150");
    world.exchange.always(spot, heavy);
    let worker = logging(world.worker(&[]).env("WORKER_SHUTDOWN_TIMEOUT_SECONDS", "1"));
    until_logged(&worker, "message", "connected").await;
    world.exchange.always(futures, Reply::status(500, "no"));
    let endpoint = logging(
        Process::builder(bin("tradebot-symbols"))
            .args(["serve", "--listen", "127.0.0.1:0"])
            .envs(world.environment()),
    );
    let beat = logging(
        Process::builder(bin("tradebot-beat"))
            .args(["--metrics-listen", "127.0.0.1:0"])
            .envs(world.environment()),
    );
    let sandbox =
        logging(Process::builder(bin("tradebot-symbols")).args(["sandbox", "--listen", "127.0.0.1:0"]));

    let mut late = warmup(Market::Spot);
    late.expires = Some(now() - TimeDelta::seconds(1));
    world.enqueue(late).await;
    let mut early = warmup(Market::Spot);
    early.eta = Some(now() + TimeDelta::seconds(1));
    world.enqueue(early).await;
    world.push(QUEUE, "this is no message").await;
    let unreadable = json!({"body": BASE64_STANDARD.encode("[["), "content-type": "application/json",
        "content-encoding": "utf-8", "properties": {"body_encoding": "base64"},
        "headers": {"task": Market::Spot.warmup_task(), "id": "unreadable"}});
    world.push(QUEUE, unreadable.to_string()).await;
    for outcome in ["expired", "parked", "success", "retry"] {
        until_logged(&worker, "outcome", outcome).await;
    }
    assert_eq!(world.run_last_try(Market::Futures).await.1["status"], "FAILURE");
    world
        .exchange
        .always(futures, Reply::status(429, "slow").header("Retry-After", "1"));
    world.run_last_try(Market::Futures).await;
    until_logged(&beat, "message", "lateness").await;
    until_logged(&endpoint, "message", "http is listening").await;
    until_logged(&sandbox, "message", "sandbox is listening").await;

    for process in [&endpoint, &beat, &sandbox] {
        process.signal(Signal::SIGTERM);
    }
    for process in [&endpoint, &beat, &sandbox] {
        process.wait_exit(PATIENCE);
    }
    // Without the endpoint, only a task asks the exchange: the next request is of a task that hangs until the stop.
    world.exchange.always(spot, Reply::json("").hang());
    let before = world.exchange.count(spot);
    world.enqueue(tried(warmup(Market::Spot), 5)).await;
    eventually("a task that hangs", PATIENCE, async || {
        (world.exchange.count(spot) > before).then_some(())
    })
    .await;
    worker.signal(Signal::SIGUSR1);
    until_logged(&worker, "phase", "active").await;
    worker.signal(Signal::SIGTERM);
    worker.wait_exit(PATIENCE);
    [worker, endpoint, beat, sandbox]
}

#[tokio::test]
async fn every_outcome_is_one_event_with_the_fields_of_the_table() {
    let processes = everything_that_happens().await;
    let events: Vec<Value> = processes.iter().flat_map(events).collect();
    let (documented, outcomes) = (documented(), outcomes());
    let mut seen = Names::new();
    let mut ended = Names::new();
    for event in &events {
        let mut names = names(event);
        let unknown: Vec<_> = names.difference(&documented).collect();
        assert!(unknown.is_empty(), "docker/logs.md lacks {unknown:?}: {event}");
        seen.append(&mut names.clone());
        let Some(outcome) = event["outcome"].as_str() else {
            continue;
        };
        let (always, sometimes) = outcomes
            .get(outcome)
            .unwrap_or_else(|| panic!("{outcome} is in no row: {event}"));
        names.remove("outcome");
        names.retain(|name| !sometimes.contains(name));
        let wanted = always.difference(sometimes).cloned().collect::<Names>();
        assert_eq!(names, wanted, "{event}");
        ended.insert(outcome.to_owned());
    }
    // What takes a revocation by remote control, or a missing right, is shown by the tests of that.
    let by_others = ["revoked", "terminated", "unsettled"].map(str::to_owned);
    let never: Vec<_> = outcomes
        .keys()
        .filter(|outcome| !ended.contains(*outcome) && !by_others.contains(outcome))
        .collect();
    assert!(never.is_empty(), "no task ended as {never:?}");
    let unseen: Vec<_> = documented
        .difference(&seen)
        .filter(|name| !ELSEWHERE.contains(&name.as_str()))
        .collect();
    assert!(unseen.is_empty(), "no line had {unseen:?}");
}
