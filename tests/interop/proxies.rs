//! The proxies of `docker/proxy`: the two symbol routes come from our endpoint, and from the backend while it is away.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tradebot_test_support::{Process, Reply, ScriptedExchange, Signal, bin, eventually, free_port};

use crate::fleet::{Fleet, PATIENCE};

const SPOT: &str = "/api/v1/symbols/spot";
const FUTURES: &str = "/api/v1/symbols/futures";

/// One proxy in front of a backend and of our endpoint, which may be away.
struct Scene {
    fleet: Fleet,
    backend: ScriptedExchange,
    endpoint: u16,
    front: String,
    client: reqwest::Client,
    proxy: Process,
    _files: TempDir,
}

impl Scene {
    /// `proxy` starts the program with the folder of its configuration.
    async fn start(file: &str, proxy: impl Fn(&Path) -> Process) -> Self {
        // Fails only where a provider is installed already, which does as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let fleet = Fleet::start(tradebot_test_support::Python::CELERY_5_5_2).await;
        let backend = ScriptedExchange::start().await;
        for path in [SPOT, FUTURES, "/api/v1/bots"] {
            backend.always(path, Reply::json(json!([{"symbol": "BACKEND"}]).to_string()));
        }
        let (front, endpoint) = (free_port(), free_port());
        let files = tempfile::tempdir().expect("a folder");
        let path = format!("{}/docker/proxy/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let backend_port = backend.base_url().rsplit(':').next().expect("a port").to_owned();
        let text = text
            .replace("127.0.0.1:8001", &format!("127.0.0.1:{endpoint}"))
            .replace("127.0.0.1:8002", &format!("127.0.0.1:{backend_port}"))
            .replace("listen 8000;", &format!("listen 127.0.0.1:{front};"))
            .replace("\n:8000 {", &format!("\nhttp://127.0.0.1:{front} {{"));
        std::fs::write(files.path().join(file), text).expect("a written file");
        let scene = Self {
            proxy: proxy(files.path()),
            fleet,
            backend,
            endpoint,
            front: format!("http://127.0.0.1:{front}"),
            client: reqwest::Client::builder().no_proxy().build().expect("a client"),
            _files: files,
        };
        eventually("the proxy", PATIENCE, async || {
            scene
                .client
                .get(format!("{}/api/v1/bots", scene.front))
                .send()
                .await
                .ok()
        })
        .await;
        scene
    }

    fn serve(&self) -> Process {
        let (redis, exchange) = (self.fleet.redis.url(), self.fleet.exchange.base_url());
        Process::builder(bin("tradebot-symbols"))
            .args(["serve", "--listen", &format!("127.0.0.1:{}", self.endpoint)])
            .envs([("REDIS_URL", &redis), ("CELERY_BROKER_URL", &redis)])
            .envs([
                ("BINANCE_SPOT_BASE_URL", &exchange),
                ("BINANCE_FUTURES_BASE_URL", &exchange),
            ])
            .spawn()
    }

    /// The status of an answer and the first symbol in it.
    async fn get(&self, path: &str) -> (u16, String) {
        get(&self.client, &format!("{}{path}", self.front)).await
    }

    async fn until_from(&self, path: &str, symbol: &str) {
        eventually(symbol, PATIENCE, async || {
            (self.get(path).await == (200, symbol.to_owned())).then_some(())
        })
        .await;
    }
}

async fn get(client: &reqwest::Client, url: &str) -> (u16, String) {
    let answer = client.get(url).send().await.expect("an answer");
    let status = answer.status().as_u16();
    let text = answer.text().await.expect("a body");
    let list: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    (status, list[0]["symbol"].as_str().unwrap_or(&text).to_owned())
}

/// Starts our endpoint behind a running proxy, kills it and starts it again, while front ends read.
async fn endpoint_comes_and_goes(scene: Scene) {
    assert_eq!(
        scene.get(SPOT).await,
        (200, "BACKEND".into()),
        "{}",
        scene.proxy.output()
    );
    let (url, client) = (format!("{}{SPOT}", scene.front), scene.client.clone());
    let over = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&over);
    let front_end = tokio::spawn(async move {
        let (mut reads, mut failed) = (0, Vec::new());
        while !stop.load(Ordering::Relaxed) {
            let answer = get(&client, &url).await;
            reads += 1;
            if answer.0 != 200 || !["BACKEND", "BTCUSDT"].contains(&&*answer.1) {
                failed.push(answer);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        (reads, failed)
    });
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let endpoint = scene.serve();
        for path in [SPOT, FUTURES] {
            scene.until_from(path, "BTCUSDT").await;
        }
        let before = scene.backend.count("/api/v1/bots");
        assert_eq!(scene.get("/api/v1/bots").await, (200, "BACKEND".into()));
        assert_eq!(scene.backend.count("/api/v1/bots"), before + 1);
        endpoint.signal(signal);
        endpoint.wait_exit(PATIENCE);
        for path in [SPOT, FUTURES] {
            scene.until_from(path, "BACKEND").await;
        }
    }
    over.store(true, Ordering::Relaxed);
    let (reads, failed) = front_end.await.expect("a front end without trouble");
    assert!(reads > 100, "{reads} reads");
    assert_eq!(failed, [], "of {reads} reads; {}", scene.proxy.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_takes_the_lists_from_the_endpoint_while_it_answers() {
    let scene = Scene::start("nginx.conf", |folder| {
        let main = folder.join("main.conf");
        let path = folder.display();
        let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {path}/{kind};\n"))
            .concat();
        let text = format!(
            "daemon off; pid {path}/pid; error_log stderr; events {{}}\n\
            http {{ access_log off; {paths} include {path}/nginx.conf; }}"
        );
        std::fs::write(&main, text).expect("a written file");
        Process::builder("nginx")
            .arg("-p")
            .arg(folder)
            .arg("-c")
            .arg(main)
            .args(["-e", "stderr"])
            .spawn()
    })
    .await;
    endpoint_comes_and_goes(scene).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caddy_takes_the_lists_from_the_endpoint_while_it_answers() {
    let scene = Scene::start("Caddyfile", |folder| {
        let file = folder.join("Caddyfile");
        let text = std::fs::read_to_string(&file).expect("a file");
        std::fs::write(&file, format!("{{\n\tadmin off\n\tauto_https off\n}}\n{text}"))
            .expect("a written file");
        Process::builder("caddy")
            .args(["run", "--adapter", "caddyfile", "--config"])
            .arg(file)
            .env("HOME", folder)
            .spawn()
    })
    .await;
    endpoint_comes_and_goes(scene).await;
}
