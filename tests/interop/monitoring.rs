//! A real Prometheus scrapes the three programs with the files in docker/ and finds all metrics that the dashboard
//! and the alert rules query.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use redis::AsyncCommands;
use serde_json::Value;
use tempfile::TempDir;
use tradebot_test_support::{Process, RedisServer, Reply, ScriptedExchange, bin, eventually, free_port};

const PATIENCE: Duration = Duration::from_secs(60);
const EXCHANGE_INFO: &str = r#"{"timezone": "UTC", "serverTime": 1791331200000, "symbols": [
    {"symbol": "ETHUSDT", "status": "TRADING", "baseAsset": "ETH", "quoteAsset": "USDT"},
    {"symbol": "BTCUSDT", "status": "TRADING", "baseAsset": "BTC", "quoteAsset": "USDT"}]}"#;
/// A message that only Python workers know, as much of it as is looked at.
const FOREIGN: &str = r#"{"body": "W1tdLCB7fSwge31d", "content-encoding": "utf-8", "content-type": "application/json",
    "headers": {"lang": "py", "task": "app.core.bot_tasks.run_bot_task", "id": "b1", "retries": 0, "root_id": "b1"},
    "properties": {"correlation_id": "b1", "delivery_mode": 2, "delivery_tag": "t1", "body_encoding": "base64",
    "delivery_info": {"exchange": "", "routing_key": "celery"}, "priority": 0}}"#;

fn docker(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docker").join(path)
}

fn read(path: &str) -> String {
    let path = docker(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The address in the log line that has `field`.
fn address(process: &Process, line: &str, field: &str) -> SocketAddr {
    let line = process.wait_for_line(line, PATIENCE);
    let (_, rest) = line.split_once(field).expect("the field with the address");
    let text = rest.split_whitespace().next().expect("an address");
    text.parse()
        .unwrap_or_else(|error| panic!("{text} is no address: {error}"))
}

async fn get(url: &str) -> String {
    let answer = reqwest::get(url)
        .await
        .unwrap_or_else(|error| panic!("{url}: {error}"));
    assert!(answer.status().is_success(), "{url}: {}", answer.status());
    answer.text().await.expect("text")
}

/// Asserts that Prometheus' own parser and linter accept a text.
fn checked(text: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool: run `make setup`, which installs Debian's prometheus");
    let mut input = promtool.stdin.take().expect("its input");
    input.write_all(text.as_bytes()).expect("a text that it reads");
    drop(input);
    let end = promtool.wait_with_output().expect("its end");
    let said = String::from_utf8_lossy(&end.stderr);
    assert!(end.status.success(), "{said}: {text}");
}

/// Every expression that a panel of the dashboard shows.
fn dashboard() -> Vec<String> {
    let dashboard: Value =
        serde_json::from_str(&read("grafana/dashboards/tradebot-symbols.json")).expect("a dashboard");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().expect("targets"));
    targets
        .map(|target| target["expr"].as_str().expect("an expression").to_owned())
        .collect()
}

/// The metrics in the table.
fn documented() -> BTreeSet<String> {
    read("metrics.md")
        .lines()
        .filter_map(|line| {
            line.strip_prefix("| `")?
                .split_once('`')
                .map(|(name, _)| name.to_owned())
        })
        .collect()
}

/// The names of our metrics in a text.
fn metrics(text: &str) -> BTreeSet<String> {
    text.split(|char: char| !char.is_ascii_alphanumeric() && char != '_')
        .filter(|word| word.starts_with("tradebot_symbols_") || word.starts_with("tradebot_beat_"))
        .map(str::to_owned)
        .collect()
}

struct Scene {
    _redis: RedisServer,
    _exchange: ScriptedExchange,
    _programs: [Process; 3],
    _prometheus: Process,
    _folder: TempDir,
    targets: [SocketAddr; 3],
    prometheus: String,
}

impl Scene {
    async fn open() -> Self {
        // Fails only where a provider is installed already, which does as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let redis = RedisServer::start();
        let exchange = ScriptedExchange::start().await;
        for path in ["/api/v3/exchangeInfo", "/fapi/v1/exchangeInfo"] {
            exchange.always(path, Reply::json(EXCHANGE_INFO));
        }
        let url = redis.url();
        let base = exchange.base_url();
        let start = |program: &str, args: &[&str]| {
            Process::builder(bin(program))
                .args(args)
                .envs([
                    ("CELERY_BROKER_URL", url.as_str()),
                    ("CELERY_RESULT_BACKEND", &url),
                    ("REDIS_URL", &url),
                    ("BINANCE_SPOT_BASE_URL", &base),
                    ("BINANCE_FUTURES_BASE_URL", &base),
                    ("SPOT_SYMBOLS_WARMUP_INTERVAL_SECONDS", "1"),
                    ("FUTURES_SYMBOLS_WARMUP_INTERVAL_SECONDS", "1"),
                ])
                .spawn()
        };
        let worker = start("tradebot-symbols", &["worker", "--http", "127.0.0.1:0"]);
        let beat = start("tradebot-beat", &["--metrics-listen", "127.0.0.1:0"]);
        let endpoint = start("tradebot-symbols", &["serve", "--listen", "127.0.0.1:0"]);
        let targets = [
            address(&worker, "http is listening", "http.address="),
            address(&beat, "serving /metrics", "address="),
            address(&endpoint, "http is listening", "http.address="),
        ];
        let pushed: Result<u64, _> = redis.connection().await.lpush("celery", FOREIGN).await;
        pushed.expect("a message on the queue");

        let folder = TempDir::new().expect("a folder");
        let [worker_at, beat_at, endpoint_at] = targets.map(|address| address.to_string());
        let config = read("prometheus/prometheus.yml")
            .replace("worker:9100", &worker_at)
            .replace("beat:9101", &beat_at)
            .replace("endpoint:9102", &endpoint_at)
            .replace("15s", "1s");
        fs::write(folder.path().join("prometheus.yml"), config).expect("a file");
        fs::write(folder.path().join("alerts.yml"), read("prometheus/alerts.yml")).expect("a file");
        let listen = format!("127.0.0.1:{}", free_port());
        let prometheus = Process::builder("prometheus")
            .arg(format!(
                "--config.file={}/prometheus.yml",
                folder.path().display()
            ))
            .arg(format!("--storage.tsdb.path={}/data", folder.path().display()))
            .arg(format!("--web.listen-address={listen}"))
            .spawn();
        prometheus.wait_for_line("Server is ready to receive web requests", PATIENCE);
        Self {
            _redis: redis,
            _exchange: exchange,
            _programs: [worker, beat, endpoint],
            _prometheus: prometheus,
            _folder: folder,
            targets,
            prometheus: format!("http://{listen}"),
        }
    }

    /// The metrics that the three programs serve.
    async fn served(&self) -> BTreeSet<String> {
        let mut served = BTreeSet::new();
        for target in self.targets {
            let text = get(&format!("http://{target}/metrics")).await;
            let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
            served.extend(families.filter_map(|family| Some(family.split_once(' ')?.0.to_owned())));
            checked(&text);
        }
        served
    }

    async fn query(&self, expression: &str) -> Vec<Value> {
        let url = url::Url::parse_with_params(
            &format!("{}/api/v1/query", self.prometheus),
            [("query", expression)],
        );
        let answer: Value = serde_json::from_str(&get(url.expect("a URL").as_str()).await).expect("JSON");
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        answer["data"]["result"].as_array().expect("results").clone()
    }

    async fn until_there(&self, expression: &str) {
        eventually(expression, PATIENCE, async || {
            let found = self.query(expression).await;
            // A rate over nothing is no number.
            let number = |result: &Value| result["value"][1].as_str().is_some_and(|text| text != "NaN");
            found.iter().any(number).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_finds_all_that_the_dashboard_and_the_rules_ask_for() {
    let scene = Scene::open().await;
    let endpoint = scene.targets[2];
    for market in ["spot", "futures"] {
        eventually("a list", PATIENCE, async || {
            let answer = reqwest::get(format!("http://{endpoint}/api/v1/symbols/{market}")).await;
            answer
                .is_ok_and(|answer| answer.status().is_success())
                .then_some(())
        })
        .await;
    }
    for job in ["worker", "beat", "endpoint"] {
        scene.until_there(&format!(r#"up{{job="{job}"}} == 1"#)).await;
    }
    let expressions = dashboard();
    assert!(expressions.len() >= 12, "{expressions:?}");
    for expression in &expressions {
        scene.until_there(expression).await;
    }
    let rules = read("prometheus/alerts.yml");
    for metric in metrics(&rules) {
        scene
            .until_there(&format!(r#"count({{__name__="{metric}"}})"#))
            .await;
    }
    let loaded: Value =
        serde_json::from_str(&get(&format!("{}/api/v1/rules", scene.prometheus)).await).expect("JSON");
    let loaded = loaded["data"]["groups"][0]["rules"].as_array().expect("rules");
    assert_eq!(loaded.len(), rules.matches("- alert:").count());
    for rule in loaded {
        assert_ne!(rule["health"], "err", "{rule}");
        assert_eq!(rule["state"], "inactive", "{rule}");
    }
    // All that can be there is there by now.
    let (documented, served) = (documented(), scene.served().await);
    let undocumented: Vec<_> = served.difference(&documented).collect();
    let missing: Vec<_> = documented.difference(&served).collect();
    assert!(
        undocumented.is_empty() && missing.is_empty(),
        "docker/metrics.md lacks {undocumented:?}, and no program serves {missing:?}"
    );
}

/// The first test of the file is of a healthy deployment.
#[test]
fn each_alert_is_shown_firing_and_silent_and_has_a_page_that_says_what_to_do() {
    let (rules, tests) = (read("prometheus/alerts.yml"), read("prometheus/alerts_test.yml"));
    let page = read("../docs/alerts.md");
    let names: Vec<&str> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        assert!(
            tests.contains(&format!("{{ eval_time: 60m, alertname: {name} }}")),
            "{name} is not silent"
        );
        assert!(
            tests.contains(&format!("alertname: {name}\n        exp_alerts:")),
            "{name} does not fire"
        );
        assert!(
            page.contains(&format!("\n## {name}\n")),
            "docs/alerts.md lacks {name}"
        );
        let runbook = format!("runbook: \"docs/alerts.md#{}\"", name.to_lowercase());
        assert!(rules.contains(&runbook), "{name} has no runbook");
    }
}

#[test]
fn the_alert_rules_fire_when_they_should() {
    let tested = Command::new("promtool")
        .args(["test", "rules"])
        .arg(docker("prometheus/alerts_test.yml"))
        .output()
        .expect("promtool: run `make setup`, which installs Debian's prometheus");
    let said = String::from_utf8_lossy(&tested.stderr);
    assert!(
        tested.status.success(),
        "{}{said}",
        String::from_utf8_lossy(&tested.stdout)
    );
}
