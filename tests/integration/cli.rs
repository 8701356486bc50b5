//! The command line and the environment: all mistakes are reported at once, and no secrets.

use std::time::Duration;

use tradebot_test_support::{Process, ProcessBuilder, Signal, bin};

use crate::world::{PATIENCE, World};

const CANARY: &str = "canary-5f1e";
const USAGE: Option<i32> = Some(64);

fn worker() -> ProcessBuilder {
    Process::builder(bin("tradebot-symbols")).arg("worker")
}

fn beat() -> ProcessBuilder {
    Process::builder(bin("tradebot-beat"))
}

/// Starts a program that cannot be used like this, and returns what it says.
fn refused(program: ProcessBuilder) -> String {
    let program = program.spawn();
    let status = program.wait_exit(PATIENCE);
    assert_eq!(status.code(), USAGE, "{}", program.output());
    assert_eq!(program.stdout(), "");
    program.stderr()
}

#[test]
fn all_mistakes_in_the_environment_are_reported_at_once() {
    let mistakes = [
        ("BINANCE_RETRY_MAX_ATTEMPTS", "0"),
        ("BINANCE_SPOT_BASE_URL", "ftp://example.com"),
        ("BINANCE_FUTURES_BASE_URL", " , "),
        ("CELERY_TASK_TIME_LIMIT", "-1"),
        ("CELERY_RESULT_EXPIRES", "a day"),
        ("CELERY_RESULT_SERIALIZER", "msgpack"),
        ("LOG_FORMAT", "xml"),
        ("LOG_LEVEL", "loud"),
        ("SPOT_SYMBOLS_CACHE_TTL_SECONDS", "5m"),
        ("TESTNET_URL", "maybe"),
        ("WORKER_SHUTDOWN_TIMEOUT_SECONDS", "NaN"),
    ];
    let told = refused(worker().envs(mistakes));
    for (name, value) in mistakes {
        let value = value.trim();
        assert!(
            told.contains(&format!("{name} is `{value}`, expected ")),
            "{name}: {told}"
        );
    }
    assert_eq!(told.lines().count(), 1, "{told}");
}

/// Celery refuses such a name, too.
#[test]
fn a_node_name_with_an_unknown_abbreviation_is_refused() {
    let told = refused(worker().args(["-n", "w%x@%h", "-S", "/run/%q.state"]));
    for part in [
        "--hostname cannot be used: `%x`",
        "--statedb cannot be used: `%q`",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn a_redis_url_that_cannot_be_used_is_named_without_being_shown() {
    for name in ["REDIS_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"] {
        for url in [
            format!("http://:{CANARY}@h/0"),
            CANARY.to_owned(),
            format!("redis://:{CANARY}@h:port/0"),
            format!("amqp://u:{CANARY}@h//"),
        ] {
            for program in [worker(), Process::builder(bin("tradebot-symbols")).arg("up")] {
                let told = refused(program.env(name, &url).env("LOG_LEVEL", "debug"));
                assert!(told.contains(name), "{told}");
                assert!(!told.contains(CANARY), "{told}");
            }
        }
    }
    let told = refused(beat().env("CELERY_BROKER_URL", format!("amqp://u:{CANARY}@h//")));
    assert!(
        told.contains("CELERY_BROKER_URL") && !told.contains(CANARY),
        "{told}"
    );
}

#[test]
fn a_command_line_that_cannot_be_used_is_refused_with_the_reason() {
    let cases: [(&[&str], &str); 6] = [
        (
            &["--concurrency", "0"],
            "--concurrency is `0`, expected a number from 1 to 10000",
        ),
        (&["-c", "10001"], "--concurrency"),
        (&["-c", "many"], "many"),
        (&["-Q", " , "], "--queues"),
        (
            &["-l", "loud", "-Q", ""],
            "--loglevel is `loud`, expected debug, info, ",
        ),
        (&["--nonsense"], "--nonsense"),
    ];
    for (arguments, reason) in cases {
        let told = refused(worker().args(arguments));
        assert!(told.contains(reason), "{arguments:?}: {told}");
    }
    let told = refused(Process::builder(bin("tradebot-symbols")).arg("wroker"));
    assert!(told.contains("wroker"), "{told}");
    assert!(refused(beat().arg("--nonsense")).contains("--nonsense"));
}

#[test]
fn help_and_version_are_no_mistakes() {
    for program in ["tradebot-symbols", "tradebot-beat"] {
        for argument in ["--help", "--version"] {
            let asked = Process::builder(bin(program)).arg(argument).spawn();
            assert_eq!(asked.wait_exit(PATIENCE).code(), Some(0));
            assert!(asked.stdout().contains(program), "{}", asked.stdout());
        }
    }
}

#[test]
fn a_schedule_without_entries_and_an_interval_that_is_none_are_refused() {
    let spot = ("SPOT_SYMBOLS_WARMUP_INTERVAL_SECONDS", "0");
    let futures = ("FUTURES_SYMBOLS_WARMUP_INTERVAL_SECONDS", "0");
    assert!(refused(beat().envs([spot, futures])).contains("the schedule is empty"));
    let told = refused(beat().envs([(spot.0, "soon"), (futures.0, "-3")]));
    assert!(told.contains(spot.0) && told.contains(futures.0), "{told}");
}

#[tokio::test]
async fn no_output_shows_a_password_even_when_redis_refuses_it() {
    let world = World::new().await;
    let place = format!("127.0.0.1:{}", world.redis.port());
    let set: Result<(), _> = redis::cmd("CONFIG")
        .arg(&["SET", "requirepass", "another"])
        .query_async(&mut world.db())
        .await;
    set.expect("a password that was set");
    let url = format!("redis://user:{CANARY}@{place}/0");
    let names = ["REDIS_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"];
    for level in ["debug", "trace"] {
        let urls = || names.map(|name| (name, url.as_str()));
        let worker = world.worker(&[]).envs(urls()).env("LOG_LEVEL", level).spawn();
        let beat = beat().envs(urls()).env("LOG_LEVEL", level).spawn();
        for program in [&worker, &beat] {
            let line = program.wait_for_line("broker in trouble", PATIENCE);
            assert!(line.contains(&format!("redis://***@{place}/0")), "{line}");
            assert!(line.contains("WRONGPASS"), "{line}");
            program.signal(Signal::SIGTERM);
            assert_eq!(program.wait_exit(PATIENCE).code(), Some(0));
            assert!(!program.output().contains(CANARY), "{}", program.output());
        }
    }
}

#[tokio::test]
async fn no_output_shows_a_password_while_everything_works() {
    let world = World::new().await;
    let mut db = world.db();
    let user: Result<(), _> = redis::cmd("ACL")
        .arg(&[
            "SETUSER",
            "worker",
            "on",
            &format!(">{CANARY}"),
            "allkeys",
            "allchannels",
            "allcommands",
        ])
        .query_async(&mut db)
        .await;
    user.expect("a user");
    let url = format!("redis://worker:{CANARY}@127.0.0.1:{}/0", world.redis.port());
    let urls = ["REDIS_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"].map(|name| (name, url.as_str()));
    let spot = tradebot_base::market::Market::Spot;
    world.exchange.always(
        crate::world::path(spot),
        tradebot_test_support::Reply::json(crate::world::good_list()),
    );
    let worker = world.worker(&["-l", "trace"]).envs(urls).spawn();
    worker.wait_for_line(" connected ", PATIENCE);
    assert_eq!(world.run_last_try(spot).await.1["status"], "SUCCESS");
    world.redis.kill();
    worker.wait_for_line("broker in trouble", PATIENCE);
    worker.signal(Signal::SIGTERM);
    worker.wait_exit(PATIENCE + Duration::from_secs(10));
    assert!(!worker.output().contains(CANARY), "{}", worker.output());
}

#[tokio::test]
async fn logs_are_json_when_asked_for() {
    let world = World::new().await;
    let worker = world.worker(&[]).env("LOG_FORMAT", "json").spawn();
    worker.wait_for_line("\"connected\"", PATIENCE);
    worker.signal(Signal::SIGTERM);
    worker.wait_exit(PATIENCE);
    for line in worker.stderr().lines() {
        let event: serde_json::Value = serde_json::from_str(line).expect("a JSON object");
        assert!(
            event["timestamp"].is_string() && event["message"].is_string(),
            "{line}"
        );
    }
    assert_eq!(worker.stdout(), "");
}

#[test]
fn every_verb_is_completed_and_helps_with_an_example() {
    let run = |arguments: &[&str]| {
        let program = Process::builder(bin("tradebot-symbols")).args(arguments).spawn();
        assert!(program.wait_exit(PATIENCE).success(), "{}", program.output());
        program.stdout()
    };
    let completions = run(&["completions", "bash"]);
    let verbs = [
        "worker",
        "serve",
        "up",
        "sandbox",
        "parked",
        "credentials",
        "doctor",
        "status",
        "healthcheck",
        "adopt",
    ];
    for verb in verbs {
        assert!(completions.contains(verb), "{verb}");
        let help = run(&[verb, "--help"]);
        let examples = help.lines().filter(|line| line.contains("tradebot-symbols "));
        assert!(examples.count() > 1, "no example beside the usage:\n{help}");
    }
    let shell = std::process::Command::new("bash")
        .args(["-n", "-c", &completions])
        .status();
    assert!(shell.expect("bash").success());
    assert!(run(&["--help"]).contains("Exit codes"));
}
