//! Spans from a producer's message through the task to the call upstream, as a collector gets them.

mod otlp;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use redis::AsyncCommands;
use serde_json::json;
use tradebot_base::market::Market;
use tradebot_test_support::{Process, ProcessBuilder, Reply, Signal, bin, eventually, stretched};
use tradebot_wire::envelope::Envelope;

use self::otlp::{CLIENT, CONSUMER, PRODUCER_KIND, SERVER, Span};
use crate::world::{PATIENCE, QUEUE, World, connected, path, warmup};

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

    /// The spans that arrived.
    fn spans(&self) -> Vec<Span> {
        Span::all(&self.bodies.lock().expect("no panic"))
    }

    /// Waits for the span that is wanted.
    async fn span(&self, what: &str, wanted: impl Fn(&Span) -> bool) -> Span {
        eventually(what, PATIENCE, async || {
            self.spans().into_iter().find(|span| wanted(span))
        })
        .await
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Whether these bytes, in this order, are in what arrived.
    fn has(&self, wanted: &[u8]) -> bool {
        let bodies = self.bodies.lock().expect("no panic");
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
    kept.lock().expect("no panic").append(&mut body);
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

fn traced(program: ProcessBuilder, collector: &Collector) -> ProcessBuilder {
    program
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url())
        // Nothing listens there: a collector on this machine is asked without a proxy.
        .env("HTTP_PROXY", "http://127.0.0.1:9")
        .env("OTEL_BSP_SCHEDULE_DELAY", "200")
}

fn beat(world: &World) -> ProcessBuilder {
    Process::builder(bin("tradebot-beat")).envs(world.environment())
}

/// An endpoint that fetches nothing unless it is asked, and its address.
fn serve(program: ProcessBuilder) -> (Process, String) {
    let endpoint = program
        .env("ENABLE_SPOT_WARMUP_ON_STARTUP", "0")
        .env("ENABLE_FUTURES_WARMUP_ON_STARTUP", "0")
        .spawn();
    let line = endpoint.wait_for_line("http is listening", PATIENCE);
    let (_, rest) = line.split_once("http.address=").expect("an address");
    let address = rest.split_whitespace().next().expect("an address").to_owned();
    (endpoint, address)
}

fn endpoint(world: &World) -> ProcessBuilder {
    Process::builder(bin("tradebot-symbols"))
        .args(["serve", "--listen", "127.0.0.1:0"])
        .envs(world.environment())
}

async fn ask(address: &str, path: &str, traceparent: Option<&str>) -> u16 {
    // Fails only if a provider is installed already, and then that one serves.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().timeout(stretched(PATIENCE)).build();
    let mut request = client.expect("a client").get(format!("http://{address}{path}"));
    if let Some(context) = traceparent {
        request = request.header("traceparent", context);
    }
    request.send().await.expect("an answer").status().as_u16()
}

fn traced_worker(world: &World, collector: &Collector) -> Process {
    connected(traced(world.worker(&[]), collector))
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
    world.exchange_lists(Market::Spot);
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
    // The exchange is another company's: it gets no trace.
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
            .find(|message| message.contains(TRACE) && !message.contains(r#""retries": 0"#))
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
    world.exchange_lists(Market::Spot);
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

#[tokio::test]
async fn a_request_is_a_child_of_its_client_and_has_what_it_waits_for_as_children() {
    let (world, collector) = (World::new().await, Collector::start());
    world.exchange_lists(Market::Spot);
    let (endpoint, address) = serve(traced(endpoint(&world), &collector));
    let context = format!("00-{TRACE}-{PRODUCER}-01");
    let route = "/api/v1/symbols/spot";
    assert_eq!(ask(&address, route, Some(&context)).await, 200);
    let name = format!("GET {route}");
    let miss = collector
        .span("the request", |span| span.parent == PRODUCER)
        .await;
    assert_eq!(
        (&*miss.name, &*miss.trace, &*miss.service, miss.kind),
        (&*name, TRACE, "tradebot-symbols", SERVER)
    );
    for (attribute, value) in [
        ("http.request.method", "GET"),
        ("http.route", route),
        ("http.response.status_code", "200"),
        ("url.path", route),
        ("url.scheme", "http"),
    ] {
        assert_eq!(miss.get(attribute), Some(value), "{miss:?}");
    }
    for (name, attribute, value) in [
        ("GET /api/v3/exchangeInfo", "http.request.method", "GET"),
        ("begin a refresh", "db.system.name", "redis"),
        ("compare and write the list", "db.system.name", "redis"),
    ] {
        let child = collector.span(name, |span| span.name == name).await;
        assert!(child.is_child_of(&miss), "{child:?} of {miss:?}");
        assert_eq!((child.kind, child.get(attribute)), (CLIENT, Some(value)));
    }
    // From memory now, for a client without a trace: a new trace.
    assert_eq!(ask(&address, route, None).await, 200);
    let hit = collector
        .span("the hit", |span| span.name == name && span.parent.is_empty())
        .await;
    assert_ne!(hit.trace, TRACE);
    assert_eq!(ask(&address, "/nowhere", Some(&context)).await, 404);
    let lost = collector.span("a 404", |span| span.name == "GET").await;
    assert_eq!(
        (lost.get("http.response.status_code"), lost.get("http.route")),
        (Some("404"), None)
    );
    assert!(!endpoint.output().contains("otel."), "{}", endpoint.output());
}

#[tokio::test]
async fn a_task_is_a_child_of_the_beats_message() {
    let (world, collector) = (World::new().await, Collector::start());
    for market in Market::ALL {
        world.exchange_lists(market);
    }
    let _worker = traced_worker(&world, &collector);
    let beat = traced(beat(&world), &collector).spawn();
    for market in Market::ALL {
        let task = market.warmup_task();
        let what = format!("the message of {task}; was the beat built with --features otel?");
        let name = format!("apply_async/{task}");
        let sent = collector.span(&what, |span| span.name == name).await;
        assert_eq!(
            (&*sent.service, sent.kind, &*sent.parent),
            ("tradebot-beat", PRODUCER_KIND, "")
        );
        assert_eq!(sent.get("messaging.destination.name"), Some("celery"));
        let name = format!("run/{task}");
        let run = collector.span(&name, |span| span.name == name).await;
        assert!(run.is_child_of(&sent), "{run:?} of {sent:?}");
        assert_eq!((&*run.service, run.kind), ("tradebot-symbols", CONSUMER));
        assert_eq!(run.get("messaging.message.id"), sent.get("messaging.message.id"));
    }
    beat.signal(Signal::SIGTERM);
    assert!(beat.wait_exit(PATIENCE).success());
}

#[tokio::test]
async fn without_a_collector_nothing_is_traced() {
    let world = World::new().await;
    world.exchange_lists(Market::Spot);
    let (endpoint, address) = serve(endpoint(&world));
    assert_eq!(ask(&address, "/api/v1/symbols/spot", None).await, 200);
    let _beat = beat(&world).spawn();
    let sent = eventually("messages of the beat", PATIENCE, async || {
        Some(world.waiting(QUEUE).await).filter(|sent| sent.len() == 2)
    })
    .await;
    assert!(
        sent.iter().all(|message| !message.contains("traceparent")),
        "{sent:?}"
    );
    let output = endpoint.output();
    assert!(
        output.contains("list refreshed") && !output.contains("otel."),
        "{output}"
    );
}
