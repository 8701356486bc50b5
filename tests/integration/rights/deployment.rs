//! A deployment of all programs, and everything that it does.

use super::*;

pub(super) async fn get(port: &str, route: &str) -> String {
    let mut socket = TcpStream::connect(format!("127.0.0.1:{port}"))
        .await
        .expect("an endpoint");
    let request = format!("GET /{route} HTTP/1.1\r\nHost: tests\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("a request");
    let mut answer = Vec::new();
    let read = timeout(stretched(PATIENCE), socket.read_to_end(&mut answer)).await;
    read.expect("an end in time").expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

pub(super) fn answer_pings(world: &World, market: Market) {
    let ping = path(market).replace("exchangeInfo", "ping");
    world.exchange.always(&ping, Reply::json("{}"));
}

/// A deployment whose programs use Redis as these users.
pub(super) struct Deployment {
    pub(super) world: World,
    pub(super) environment: BTreeMap<&'static str, String>,
    pub(super) prefix: &'static str,
}

impl Deployment {
    pub(super) async fn new(redis: RedisServer) -> Self {
        let world = World::on(redis).await;
        for market in Market::ALL {
            world.exchange_lists(market);
            answer_pings(&world, market);
        }
        Self {
            environment: world.environment().into_iter().collect(),
            world,
            prefix: "",
        }
    }

    pub(super) fn set(&mut self, names: &[&'static str], value: &str) {
        for name in names {
            self.environment.insert(name, value.to_owned());
        }
    }

    pub(super) fn worker(&self, name: &str, arguments: &[&str]) -> ProcessBuilder {
        Process::builder(bin("tradebot-symbols"))
            .args(["worker", "-c", "2", "-E", "-n", name])
            .args(arguments)
            .envs(&self.environment)
    }

    pub(super) fn beat(&self) -> ProcessBuilder {
        Process::builder(bin("tradebot-beat")).envs(&self.environment)
    }

    /// Runs a verb to its end.
    pub(super) fn run(&self, arguments: &[&str]) -> Process {
        let process = Process::builder(bin("tradebot-symbols"))
            .args(arguments)
            .envs(&self.environment)
            .spawn();
        process.wait_exit(PATIENCE);
        process
    }

    pub(super) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(super) async fn is_drained(&self) -> Option<()> {
        let unacked: u64 = self.world.db().hlen(self.key("unacked")).await.expect("a hash");
        (unacked == 0).then_some(())
    }

    /// Does everything that needs Redis. `doctor` may find these things wrong with the servers.
    pub(super) async fn does_everything(&self, doctor: &[&str]) {
        // A delivery that some worker of another kind took long ago.
        let abandoned = warmup(SPOT).into_envelope("gen1@tests", now());
        let record = json!([
            serde_json::from_str::<Value>(&abandoned.to_json()).expect("JSON"),
            "",
            QUEUE
        ]);
        let mut db = self.world.db();
        let _: u64 = db
            .hset(self.key("unacked"), "old", record.to_string())
            .await
            .expect("a record");
        let _: u64 = db
            .zadd(self.key("unacked_index"), "old", 1)
            .await
            .expect("an entry");

        // One that dies with a task.
        self.world.exchange.always(path(SPOT), Reply::json("{}").hang());
        let dying = connected(self.worker("dying@tests", &[]));
        let lost = warmup(SPOT).into_envelope("gen1@tests", now());
        self.world.push(&self.key(QUEUE), lost.to_json()).await;
        self.world.asked(SPOT, 1).await;
        dying.signal(Signal::SIGKILL);
        self.world.exchange_lists(SPOT);

        let url = self.world.redis.url();
        let python = [("CELERY_BROKER_URL", &*url), ("CELERY_RESULT_BACKEND", &*url)];
        let theirs = self.prefix.is_empty().then(|| {
            let arguments = [
                "-A",
                "remote_app",
                "worker",
                "-P",
                "solo",
                "-Q",
                "theirs",
                "-n",
                "theirs@tests",
                "-l",
                "INFO",
            ];
            let theirs = Python::CELERY_NEWEST.celery(&arguments, &python);
            theirs.wait_for_line(" ready.", 2 * PATIENCE);
            theirs
        });
        let worker = connected(self.worker("symbols@tests", &["--http", "127.0.0.1:0"]));
        worker.wait_for_line("mingle: ", PATIENCE);
        worker.wait_for_line("remote control ready", PATIENCE);
        let listening = worker.wait_for_line("http is listening", PATIENCE);
        let address = listening.split("127.0.0.1:").nth(1).expect("an address");
        let port: String = address.chars().take_while(char::is_ascii_digit).collect();
        let beat = self.beat().spawn();
        beat.wait_for_line(" sent", PATIENCE);

        let prefix = [self.prefix];
        let arguments: &[&str] = if self.prefix.is_empty() { &[] } else { &prefix };
        let client = tokio::task::spawn_blocking({
            let (url, arguments) = (
                url.clone(),
                arguments.iter().map(|&text| text.to_owned()).collect::<Vec<_>>(),
            );
            move || {
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                let python = [("CELERY_BROKER_URL", &*url), ("CELERY_RESULT_BACKEND", &*url)];
                Python::CELERY_NEWEST.script_within(4 * PATIENCE, "rights.py", &arguments, &python)
            }
        });
        let answer = client.await.expect("answers");
        for name in ["chord", "linked", "later"] {
            assert_eq!(answer[name], "WARMUP_OK:2", "{answer}");
        }
        assert_eq!(answer["revoked"], "TaskRevokedError", "{answer}");
        assert_eq!(answer["ping"]["symbols@tests"], json!({"ok": "pong"}), "{answer}");

        for route in [
            "api/v1/symbols/spot",
            "api/v1/symbols/changes?since=0",
            "readyz",
            "metrics",
            "",
        ] {
            let answer = get(&port, route).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{route}: {answer}");
        }
        eventually(
            "the old delivery and that of the dead worker",
            2 * PATIENCE,
            async || self.is_drained().await,
        )
        .await;
        // Counted about once a second.
        eventually("a counted read", PATIENCE, async || {
            (self.world.reads(SPOT).await.0 > 0).then_some(())
        })
        .await;

        let endpoint = format!("127.0.0.1:{port}");
        for part in [&["worker", "-n", "symbols@tests"][..], &["beat"]] {
            let check = self.run(&[&["healthcheck"], part].concat());
            assert_eq!(check.wait_exit(PATIENCE).code(), Some(0), "{}", check.output());
        }
        let examined = self.run(&["doctor", "--json"]);
        let report: Value = serde_json::from_str(&examined.stdout()).expect("a report");
        let found: BTreeSet<&str> = report["findings"]
            .as_array()
            .expect("findings")
            .iter()
            .filter_map(|finding| finding["code"].as_str())
            .filter(|code| code.starts_with("redis-re") || code.starts_with("redis-unch"))
            .collect();
        assert_eq!(found, doctor.iter().copied().collect(), "{report:#}");
        assert_eq!(report["picture"]["unseen"], json!({}), "{report:#}");
        let status = self.run(&["status"]);
        assert!(
            status.stdout().contains("worker   symbols@tests"),
            "{}",
            status.output()
        );
        assert!(!status.stdout().contains("unseen"), "{}", status.output());
        let parked = self.run(&["parked", "list"]);
        assert_eq!(
            parked.wait_exit(PATIENCE).code(),
            Some(0),
            "{endpoint} {}",
            parked.output()
        );

        for program in [&worker, &beat] {
            program.signal(Signal::SIGTERM);
            assert_eq!(program.wait_exit(PATIENCE).code(), Some(0));
            assert!(!program.output().contains("NOPERM"), "{}", program.output());
        }
        drop(theirs);
    }
}
