//! Redis users with few rights. The list in docs/redis.md is enough for everything; what is missing is named, and stops nothing
//! else.

mod deployment;
mod refused_queues;
mod wrong_types;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::{AsyncCommands, cmd};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;
use tradebot_base::clock::SystemClock;
use tradebot_base::connection::Connection;
use tradebot_base::market::Market;
use tradebot_base::secret::RedisUrl;
use tradebot_core::transport::{LeftOut, Passes, StoredResult, Transport, Wish};
use tradebot_test_support::{
    Process, ProcessBuilder, Python, RedisServer, Reply, Signal, bin, eventually, stretched,
};
use tradebot_wire::body::Body;
use tradebot_wire::envelope::Envelope;
use tradebot_wire::keys::{Keys, task_meta};
use tradebot_wire::task_message::TaskMessage;

use self::deployment::{Deployment, answer_pings, get};
use crate::world::{PATIENCE, QUEUE, World, connected, now, path, task, warmup};

const SPOT: Market = Market::Spot;
const URLS: [&str; 3] = ["REDIS_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"];

/// The rules that docs/redis.md lists for these users, with `prefix` where they say so.
fn rules(users: &[&str], prefix: &str) -> String {
    let page = include_str!("../../docs/redis.md");
    let (_, block) = page.split_once("```acl\n").expect("a list of rules");
    let (block, _) = block.split_once("```").expect("its end");
    let mut rules = Vec::new();
    for user in ["every"].iter().chain(users) {
        let mut lines = block
            .lines()
            .skip_while(|line| !line.starts_with(&format!("{user} ")));
        let first = lines.next().unwrap_or_else(|| panic!("no rules for {user}"));
        rules.push(first.trim_start_matches(user).to_owned());
        rules.extend(lines.take_while(|line| line.starts_with(' ')).map(str::to_owned));
    }
    let prefixed = |rule: &str| match rule.split_at(1) {
        (kind @ ("~" | "&"), pattern) => format!("{kind}{prefix}{pattern}"),
        _ => rule.to_owned(),
    };
    let rules = rules.join(" ");
    rules
        .split_whitespace()
        .map(prefixed)
        .collect::<Vec<_>>()
        .join(" ")
}

/// What the server has refused: why, and the command, key or channel.
async fn refused(redis: &RedisServer) -> BTreeSet<(String, String)> {
    let log: Vec<BTreeMap<String, redis::Value>> = cmd("ACL")
        .arg("LOG")
        .arg(1000)
        .query_async(&mut redis.connection().await)
        .await
        .expect("the log");
    let text = |entry: &BTreeMap<String, redis::Value>, name: &str| -> String {
        redis::from_redis_value(entry[name].clone()).expect("a text")
    };
    log.iter()
        .map(|entry| (text(entry, "reason"), text(entry, "object")))
        .collect()
}

fn commands(names: &[&str]) -> BTreeSet<(String, String)> {
    names
        .iter()
        .map(|name| ("command".to_owned(), (*name).to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_rights_are_enough() {
    let mut deployment = Deployment::new(RedisServer::start()).await;
    let rules = rules(&["broker", "results", "lists", "doctor", "named"], "");
    let url = deployment.world.redis.user("tradebot", &rules).await;
    deployment.set(&URLS, &url);
    deployment.does_everything(&[]).await;
    assert_eq!(refused(&deployment.world.redis).await, BTreeSet::new());
}

#[test]
fn no_documented_right_is_more_than_is_used() {
    let every = rules(&[], "");
    for (user, others, folders) in [
        ("broker", "", &["src", "beat/src"][..]),
        (
            "results",
            &every,
            &["src/core/results", "src/core/transport/scripts"],
        ),
        ("lists", &every, &["src/product"]),
    ] {
        let (rules, sources) = (rules(&[user], ""), sources(folders));
        let own = rules
            .strip_prefix(others)
            .expect("the rules for every user first");
        for rule in own.split_whitespace().filter_map(|rule| rule.strip_prefix('+')) {
            let name = rule.split('|').next().expect("a name");
            let spellings = [
                format!("'{}'", name.to_uppercase()),
                format!("\"{}\"", name.to_uppercase()),
                format!(".{name}("),
            ];
            // What the Redis client sends itself.
            let by_the_client = ["evalsha", "script", "multi", "exec", "select", "subscribe"].contains(&name);
            let used = by_the_client || spellings.iter().any(|spelling| sources.contains(spelling));
            assert!(used, "{user} does not need +{rule}");
        }
    }
}

/// The scripts and the modules in these folders.
fn sources(folders: &[&str]) -> String {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<_> = folders.iter().map(|folder| root.join(folder)).collect();
    let mut text = String::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                text.push_str(&std::fs::read_to_string(path).unwrap_or_default());
            }
        }
    }
    text
}

#[test]
fn the_rights_hold_every_command_of_a_script() {
    let rules = rules(&["broker", "results", "lists"], "");
    let granted: BTreeSet<&str> = rules.split_whitespace().collect();
    let sources = sources(&["src", "beat/src"]);
    let calls = sources
        .split("call('")
        .skip(1)
        .filter_map(|call| call.split('\'').next());
    let mut called: BTreeSet<&str> = calls.collect();
    called.extend(["LPUSH", "RPUSH"]);
    assert!(called.len() > 25, "{called:?}");
    for command in called {
        let rule = format!("+{}", command.to_lowercase());
        assert!(granted.contains(&*rule), "{rule} is missing");
    }
}

/// One database with a user for each of its uses: what one may do, another may not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_for_each_use_is_enough() {
    let mut deployment = Deployment::new(RedisServer::start()).await;
    for (name, users) in [
        ("REDIS_URL", &["lists"][..]),
        ("CELERY_BROKER_URL", &["broker", "named"]),
        ("CELERY_RESULT_BACKEND", &["results"]),
    ] {
        // No names for results and lists, and no right to read the server's settings.
        let mut rules = rules(users, "");
        if name == "CELERY_BROKER_URL" {
            rules = rules.replace("~celery*", "~celery ~celery\u{6}* ~celery:*");
        }
        let url = deployment.world.redis.user(name, &rules).await;
        deployment.set(&[name], &url);
    }
    deployment.set(&["CELERY_TASK_TRACK_STARTED"], "true");
    deployment.does_everything(&["redis-unchecked"]).await;
    assert_eq!(
        refused(&deployment.world.redis).await,
        commands(&["info", "config|get", "client|setname", "client|tracking"])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_that_is_limited_to_a_prefix_is_enough() {
    let mut deployment = Deployment::new(RedisServer::start()).await;
    deployment.prefix = "p:";
    let redis = &deployment.world.redis;
    let queues = redis
        .user("queues", &rules(&["broker", "results", "doctor", "named"], "p:"))
        .await;
    let lists = redis
        .user("lists", &rules(&["lists", "doctor", "named"], ""))
        .await;
    deployment.set(&["CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"], &queues);
    deployment.set(&["REDIS_URL"], &lists);
    deployment.set(
        &["CELERY_GLOBAL_KEYPREFIX", "CELERY_RESULT_GLOBAL_KEYPREFIX"],
        "p:",
    );
    deployment.does_everything(&[]).await;
    assert_eq!(refused(&deployment.world.redis).await, BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redbeats_rights_are_enough() {
    let mut deployment = Deployment::new(RedisServer::start()).await;
    let rules = rules(&["broker", "named", "redbeat"], "");
    let url = deployment.world.redis.user("beat", &rules).await;
    deployment.set(&URLS, &url);
    let beat = deployment.beat().arg("--redbeat").spawn();
    beat.wait_for_nth_line(" sent", 2, PATIENCE);
    beat.signal(Signal::SIGTERM);
    assert_eq!(beat.wait_exit(PATIENCE).code(), Some(0));
    assert_eq!(refused(&deployment.world.redis).await, BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_of_a_forbidden_queue_is_named_and_holds_up_no_other() {
    let mut deployment = Deployment::new(RedisServer::start()).await;
    let url = deployment
        .world
        .redis
        .user("beat", &rules(&["broker", "named"], ""))
        .await;
    deployment.set(&URLS, &url);
    let mut schedule = tempfile::NamedTempFile::new().expect("a file");
    let entry = "[[entry]]\nname = \"theirs\"\ntask = \"app.theirs\"\nqueue = \"orders\"\ninterval = 1\n";
    schedule.write_all(entry.as_bytes()).expect("an entry");
    let beat = deployment.beat().arg("--schedule").arg(schedule.path()).spawn();
    let line = beat.wait_for_line("the queue refuses messages", PATIENCE);
    for part in ["theirs", "the key `orders`", "ACL SETUSER"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    beat.wait_for_nth_line(" sent", 2, PATIENCE);
    assert_eq!(deployment.world.waiting(QUEUE).await.len(), 2);
}

/// Asserts that a server without CLIENT is used without names and tracking, and that each program says so once.
async fn works_without_client(deployment: &Deployment) {
    let worker = connected(deployment.worker("symbols@tests", &["--http", "127.0.0.1:0"]));
    let beat = deployment.beat().spawn();
    beat.wait_for_line(" sent", PATIENCE);
    assert_eq!(deployment.world.run_last_try(SPOT).await.1["status"], "SUCCESS");
    for program in [&worker, &beat] {
        program.wait_for_line("the server refuses CLIENT", PATIENCE);
        program.signal(Signal::SIGTERM);
        assert_eq!(program.wait_exit(PATIENCE).code(), Some(0));
        let output = program.output();
        let warnings =
            output.matches("the server refuses CLIENT").count() + output.matches("polling instead").count();
        assert_eq!(warnings, 1, "{output}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_without_client_works_and_a_server_without_it_too() {
    let mut deployment = Deployment::new(RedisServer::start()).await;
    let rules = rules(&["broker", "results", "lists"], "");
    let url = deployment.world.redis.user("nameless", &rules).await;
    deployment.set(&URLS, &url);
    works_without_client(&deployment).await;
    let refused = refused(&deployment.world.redis).await;
    assert_eq!(refused, commands(&["client|setname", "client|tracking"]));

    let renamed = RedisServer::start_with(&["--rename-command", "CLIENT", ""]);
    works_without_client(&Deployment::new(renamed).await).await;
}

/// All rights but those to the keys of results.
fn without_results() -> String {
    let rules = rules(&["broker", "lists", "doctor", "named"], "");
    format!(
        "{} &celery-task-meta-*",
        rules.replace("~celery*", "~celery ~celery\u{6}* ~celery:*")
    )
}

fn echo(value: &str, ignored: bool) -> TaskMessage {
    let mut echo = task("tests.echo");
    echo.body = Body {
        args: vec![json!(value)],
        ..Body::default()
    };
    echo.headers.insert("ignore_result".to_owned(), json!(ignored));
    echo
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_may_not_be_stored_keeps_no_slot_and_is_not_lost() {
    let world = World::new().await;
    let url = world.redis.user("limited", &without_results()).await;
    let worker = || {
        let mut environment: BTreeMap<_, _> = world.environment().into_iter().collect();
        environment.extend(URLS.map(|name| (name, url.clone())));
        let worker = Process::builder(bin("test-worker"))
            .args(["-c", "2"])
            .envs(environment);
        connected(worker)
    };
    let first = worker();
    let mut ids = Vec::new();
    for number in 0..5 {
        let message = world.enqueue(echo(&number.to_string(), false)).await;
        ids.push(message.id().to_owned());
    }
    let done = async |worker: &Process, id: &str, end: &str| {
        eventually(&format!("the end of {id}"), PATIENCE, async || {
            let lines = worker.output();
            lines
                .lines()
                .any(|line| line.contains(end) && line.contains(id))
                .then_some(())
        })
        .await;
    };
    let unsettled = "outcome=\"unsettled\"";
    for id in &ids {
        done(&first, id, unsettled).await;
    }
    // The slots are free, and what may be settled is.
    for number in 0..5 {
        let other = world.enqueue(echo(&number.to_string(), true)).await;
        done(&first, other.id(), "task succeeded").await;
    }
    eventually("five messages that are kept", PATIENCE, async || {
        (world.unacked().await.len() == 5).then_some(())
    })
    .await;
    // Neither is a claim that was never answered, which is restored after ten seconds.
    let searches = async || -> u64 {
        let info: String = cmd("INFO")
            .arg("commandstats")
            .query_async(&mut world.db())
            .await
            .expect("INFO");
        let calls = info.split("cmdstat_zscan:calls=").nth(1);
        calls.map_or(0, |calls| {
            calls
                .split(',')
                .next()
                .expect("a number")
                .parse()
                .expect("a number")
        })
    };
    let before = searches().await;
    eventually("two searches for late claims", PATIENCE, async || {
        (searches().await >= before + 2).then_some(())
    })
    .await;
    assert_eq!(world.unacked().await.len(), 5);
    let output = first.output();
    for end in ["task succeeded", unsettled] {
        assert_eq!(output.matches(end).count(), 5, "{end}: {output}");
    }
    let named: Vec<&str> = output.lines().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(named.len(), 1, "{named:?}");
    for part in ["NOPERM", "celery-task-meta-", "ACL SETUSER"] {
        assert!(named[0].contains(part), "{part}: {}", named[0]);
    }

    let all = rules(&["broker", "results", "lists", "doctor", "named"], "");
    first.signal(Signal::SIGTERM);
    assert_eq!(first.wait_exit(PATIENCE).code(), Some(0));
    assert_eq!(
        (world.unacked().await.len(), world.waiting(QUEUE).await.len()),
        (0, 5)
    );
    assert_eq!(world.redis.user("limited", &all).await, url);
    let second = worker();
    for (number, id) in ids.iter().enumerate() {
        assert_eq!(world.result(id, "SUCCESS").await["result"], number.to_string());
    }
    eventually("no message", PATIENCE, async || {
        world.unacked().await.is_empty().then_some(())
    })
    .await;
    assert_eq!(world.waiting(QUEUE).await, [""; 0]);
    assert_eq!(world.waiting("tradebot-symbols:parked").await, [""; 0]);
    drop(second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_that_is_not_stored_counts_as_none() {
    let mut deployment = Deployment::new(RedisServer::start()).await;
    let url = deployment.world.redis.user("limited", &without_results()).await;
    deployment.set(&URLS, &url);
    let worker = connected(deployment.worker("symbols@tests", &["--http", "127.0.0.1:0"]));
    let listening = worker.wait_for_line("http is listening", PATIENCE);
    let port = listening.split("127.0.0.1:").nth(1).expect("an address");
    let port: String = port.chars().take_while(char::is_ascii_digit).collect();
    let ends = async || -> Vec<String> {
        let metrics = get(&port, "metrics").await;
        let ended = |line: &&str| line.contains("task_outcomes") && line.contains("spot");
        metrics.lines().filter(ended).map(str::to_owned).collect()
    };
    let sent = deployment.world.enqueue(warmup(SPOT)).await;
    let line = worker.wait_for_line("outcome=\"unsettled\"", PATIENCE);
    assert!(line.contains(sent.id()), "{line}");
    let counts = ends().await;
    assert!(
        counts.len() == 4 && counts.iter().all(|line| line.ends_with(" 0")),
        "{counts:?}"
    );
    // The same for a backend that stays away until a cold stop.
    let late = Deployment::new(RedisServer::start()).await;
    let results = RedisServer::start();
    let worker = connected(
        late.worker("symbols@tests", &[])
            .env("CELERY_RESULT_BACKEND", results.url()),
    );
    results.kill();
    let sent = late.world.enqueue(warmup(SPOT)).await;
    worker.wait_for_line("cannot store a result yet", PATIENCE);
    worker.signal(Signal::SIGQUIT);
    assert_eq!(worker.wait_exit(PATIENCE).code(), Some(0));
    let output = worker.output();
    let line = output.lines().find(|line| line.contains("outcome=\"unsettled\""));
    assert!(line.is_some_and(|line| line.contains(sent.id())), "{output}");
    assert!(!output.contains("task succeeded"), "{output}");
    assert_eq!(late.world.waiting(QUEUE).await.len(), 1);
}

/// Settlements that wait for one another go to the server in one script, which it refuses as a whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_be_settled_is_settled_in_one_batch_with_what_may_not() {
    let world = World::new().await;
    let url = world
        .redis
        .user(
            "limited",
            &format!("{} ~celery-task-meta-ours*", without_results()),
        )
        .await;
    let changed = Arc::new(Notify::new());
    let connection =
        Connection::with_tracking(&RedisUrl::new(&url), "tests", Arc::clone(&changed)).expect("a URL");
    let transport = Transport::new(
        connection,
        changed,
        Keys::default(),
        &[QUEUE.to_owned()],
        SystemClock::shared(),
    );
    for number in 0..40 {
        world.enqueue(echo(&number.to_string(), false)).await;
    }
    let names = ["tests.echo".to_owned()];
    let wish = Wish {
        messages: 40,
        tasks: &names,
        not_now: &[],
        left_out: &LeftOut::default(),
        leave_etas: false,
    };
    let claim = transport.claim(&wish, &Passes::default()).await.expect("a claim");
    assert_eq!(claim.claimed.len(), 40);
    let forbidden = |number: usize| number % 2 == 1;
    let settle = async |number: usize| {
        let whose = if forbidden(number) { "theirs" } else { "ours" };
        let result = StoredResult {
            key: task_meta("", &format!("{whose}-{number}")),
            document: r#"{"status": "SUCCESS"}"#.to_owned(),
            expires_seconds: 60,
        };
        transport
            .settle(&claim.claimed[number].tag, Some(&result), &[])
            .await
    };
    let outcomes = join_all((0..40).map(settle)).await;
    for (number, outcome) in outcomes.iter().enumerate() {
        match outcome {
            Ok(settled) => assert!(!forbidden(number) && settled.held, "{number}: {settled:?}"),
            Err(trouble) => assert!(forbidden(number) && trouble.is_forbidden(), "{number}: {trouble}"),
        }
    }
    assert_eq!(world.unacked().await.len(), 20);
    transport.return_unsettled().await.expect("the rest goes back");
    let back = world.waiting(QUEUE).await;
    let back: Vec<Envelope> = back
        .iter()
        .map(|text| Envelope::parse(text.as_bytes()).expect("a message"))
        .collect();
    let order = back
        .iter()
        .map(|message| message.body().expect("a body").args[0].clone());
    let expected = (0..40)
        .filter(|number| forbidden(*number))
        .map(|number| json!(number.to_string()));
    assert!(order.eq(expected), "{back:?}");
    assert!(back.iter().all(Envelope::redelivered), "{back:?}");
}

/// The table of deliveries is one for all queues of a broker; not every user may use all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_of_a_forbidden_queue_is_left_to_others_and_holds_up_none() {
    let world = World::new().await;
    world.exchange_lists(SPOT);
    let all = rules(&["broker", "results", "lists", "named"], "");
    let url = world.redis.user("tradebot", &all).await;
    for (tag, queue, score) in [("theirs", "orders", 2), ("ours", QUEUE, 1)] {
        let message = warmup(SPOT).into_envelope("gen1@tests", now());
        let message: Value = serde_json::from_str(&message.to_json()).expect("JSON");
        let record = json!([message, "", queue]).to_string();
        let _: u64 = world.db().hset("unacked", tag, record).await.expect("a record");
        let _: u64 = world
            .db()
            .zadd("unacked_index", tag, score)
            .await
            .expect("an entry");
    }
    let worker = connected(world.worker(&[]).envs(URLS.map(|name| (name, &url))));
    world.asked(SPOT, 1).await;
    let line = worker.wait_for_line("may not restore some deliveries", PATIENCE);
    assert!(line.contains("the key `orders`"), "{line}");
    eventually("the end of ours", PATIENCE, async || {
        (world.unacked().await.len() == 1).then_some(())
    })
    .await;
    assert!(world.unacked().await.contains_key("theirs"));
    assert!(!worker.output().contains("heartbeat"), "{}", worker.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_without_rights_names_them_and_goes_on_once_it_has_them() {
    let all = rules(&["broker", "results", "lists", "named"], "");
    for (granted, instead, named) in [
        (
            "~unacked*",
            "~unacked_index",
            "lacks the right to the key `unacked` (`~`)",
        ),
        // Denied within the script that claims.
        ("+zadd", "", "lacks the right to a command (`+`)"),
        ("+sadd", "", "'sadd'"),
    ] {
        let world = World::new().await;
        world.exchange_lists(SPOT);
        let url = world.redis.user("tradebot", &all.replace(granted, instead)).await;
        let id = world.enqueue(warmup(SPOT)).await.id().to_owned();
        let worker = world.worker(&[]).envs(URLS.map(|name| (name, &url))).spawn();
        let line = worker.wait_for_line("the broker refuses, this worker claims nothing", PATIENCE);
        for part in ["NOPERM", named, "ACL SETUSER"] {
            assert!(line.contains(part), "{part}: {line}");
        }
        assert!(!line.contains("secret"), "{line}");
        world.redis.user("tradebot", &all).await;
        assert_eq!(world.ended(&id).await["status"], "SUCCESS", "{named}");
        assert_eq!(world.exchange.count(path(SPOT)), 1);
    }
}
