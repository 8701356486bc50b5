//! Spans from a producer's message through the task to the call upstream, as a collector gets them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use redis::AsyncCommands;
use serde_json::json;
use tradebot_symbols::core::wire::envelope::Envelope;
use tradebot_symbols::market::Market;
use tradebot_test_support::{Process, Reply, Signal, eventually};

use crate::world::{PATIENCE, World, connected, good_list, path, warmup};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PRODUCER: &str = "00f067aa0ba902b7";

/// What takes spans, as `POST /v1/traces`, and keeps the bodies.
struct Collector {
    port: u16,
    bodies: Arc<Mutex<Vec<u8>>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&bodies);
        // Ends with the process: it waits for connections and holds nothing.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let kept = Arc::clone(&kept);
                thread::spawn(move || while take(&stream, &kept).is_some() {});
            }
        });
        Self { port, bodies }
    }

    /// Whether these bytes, in this order, are in what arrived.
    fn has(&self, wanted: &[u8]) -> bool {
        let bodies = self.bodies.lock().expect("nobody panicked");
        bodies.windows(wanted.len()).any(|window| window == wanted)
    }
}

/// Reads one request and answers it; `None` at the end of the connection.
fn take(stream: &TcpStream, kept: &Mutex<Vec<u8>>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let (mut length, mut line) = (0, String::new());
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    assert!(line.starts_with("POST /v1/traces "), "{line}");
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    kept.lock().expect("nobody panicked").append(&mut body);
    let mut writer = stream;
    writer
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n")
        .ok()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal"))
        .collect()
}

fn traced_worker(world: &World, collector: &Collector) -> Process {
    let endpoint = format!("http://127.0.0.1:{}", collector.port);
    connected(world.worker(&[]).env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint))
}

async fn send(world: &World) -> Envelope {
    let mut task = warmup(Market::Spot);
    let context = format!("00-{TRACE}-{PRODUCER}-01");
    task.headers.insert("traceparent".into(), json!(context));
    world.enqueue(task).await
}

#[tokio::test]
async fn a_task_is_a_child_of_its_producer_and_the_call_upstream_one_of_the_task() {
    let (world, collector) = (World::new().await, Collector::start());
    world
        .exchange
        .always(path(Market::Spot), Reply::json(good_list()));
    let worker = traced_worker(&world, &collector);
    let id = send(&world).await.id().to_owned();
    assert_eq!(world.ended(&id).await["status"], "SUCCESS");
    worker.signal(Signal::SIGTERM);
    assert!(worker.wait_exit(PATIENCE).success());
    // What was not sent yet is sent before the process ends.
    for part in [
        bytes(TRACE),
        bytes(PRODUCER),
        b"run/app.core.cache_warmup_tasks.warmup_spot_symbols_cache".to_vec(),
        id.into_bytes(),
        b"GET /api/v3/exchangeInfo".to_vec(),
        b"tradebot-symbols".to_vec(),
    ] {
        assert!(collector.has(&part), "{}", String::from_utf8_lossy(&part));
    }
    assert!(
        !worker.output().contains("otel."),
        "spans are in the log:\n{}",
        worker.output()
    );
    // The exchange is somebody else's, and is told nothing.
    let asked = world.exchange.requests();
    assert!(
        asked
            .iter()
            .all(|request| request.header("traceparent").is_none())
    );
}

#[tokio::test]
async fn a_retry_is_a_child_of_the_run_that_asked_for_it() {
    let (world, collector) = (World::new().await, Collector::start());
    world.exchange.always(
        path(Market::Spot),
        Reply::status(400, r#"{"code": -1000, "msg": "no"}"#),
    );
    let _worker = traced_worker(&world, &collector);
    let sent = send(&world).await;
    let retry = eventually("the message of the retry", PATIENCE, async || {
        let mut db = world.db();
        let held: Vec<String> = db.hvals("unacked").await.expect("a hash");
        let queued: Vec<String> = db.lrange("celery", 0, -1).await.expect("a list");
        let all = held.into_iter().chain(queued);
        all.into_iter()
            .find(|message| message.contains(r#""retries": 1"#))
    })
    .await;
    assert!(retry.contains(sent.id()));
    let at = retry.find(TRACE).expect("the trace goes on");
    let parent = &retry[at + TRACE.len() + 1..][..PRODUCER.len()];
    assert_ne!(parent, PRODUCER);
    eventually("the span of the run", PATIENCE, async || {
        collector.has(&bytes(parent)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_collector_that_is_not_there_holds_up_nothing() {
    let world = World::new().await;
    world
        .exchange
        .always(path(Market::Spot), Reply::json(good_list()));
    let gone = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = format!("http://{}", gone.local_addr().expect("its address"));
    let worker = connected(world.worker(&[]).env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint));
    for _ in 0..3 {
        let id = send(&world).await.id().to_owned();
        assert_eq!(world.ended(&id).await["status"], "SUCCESS");
    }
    worker.signal(Signal::SIGTERM);
    assert!(worker.wait_exit(PATIENCE).success());
}
