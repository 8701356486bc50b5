//! Python Celery in the virtual environments that `make setup` creates.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::process::{Process, ProcessBuilder};

const SCRIPT_TIMEOUT: Duration = Duration::from_secs(60);

/// The interpreter of one virtual environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Python {
    environment: &'static str,
}

impl Python {
    /// The release of the existing deployment: celery 5.5.2, kombu 5.5.4, redis-py 6.1.0.
    pub const CELERY_5_5_2: Self = Self {
        environment: "celery-5.5.2",
    };
    /// The release between: celery 5.6.3, kombu 5.6.2, redis-py 6.4.0. Only for what differs in it; not in
    /// [`ALL`](Self::ALL).
    pub const CELERY_5_6: Self = Self {
        environment: "celery-5.6",
    };
    /// The newest release, pinned in `tests/python/requirements-newest.txt`.
    pub const CELERY_NEWEST: Self = Self {
        environment: "celery-newest",
    };
    /// No Celery: the existing deployment's libraries for tokens, encrypted keys and the database.
    pub const CREDENTIALS: Self = Self {
        environment: "credentials",
    };
    /// No Celery: clients of the HTTP endpoint, pinned in `tests/python/requirements-web.txt`.
    pub const WEB: Self = Self { environment: "web" };
    /// Celery with what its own integration suite needs, which `make setup` puts beside the environment.
    pub const CONFORMANCE: Self = Self {
        environment: "conformance-5.7.0",
    };
    /// The two releases that most tests run against.
    pub const ALL: [Self; 2] = [Self::CELERY_5_5_2, Self::CELERY_NEWEST];

    /// The name of the virtual environment, for assertion messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.environment
    }

    /// Starts a script outside `tests/python`, given by its path in the repository.
    #[must_use]
    pub fn program(self, path: &str, args: &[&str]) -> Process {
        self.command()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .arg(workspace().join(path))
            .args(args)
            .spawn()
    }

    /// Runs `tests/python/<name>` and parses the last line of its stdout as JSON.
    ///
    /// The script gets only the variables in `env` (see [`ProcessBuilder::env`]) and has 60 seconds. Blocks the thread;
    /// a test with other tasks to run meanwhile calls it through `spawn_blocking`.
    ///
    /// # Panics
    /// When the environment is missing, the script fails, takes too long or prints no JSON.
    #[must_use]
    pub fn script(self, name: &str, args: &[&str], env: &[(&str, &str)]) -> Value {
        self.script_within(SCRIPT_TIMEOUT, name, args, env)
    }

    /// [`script`](Self::script) with another time limit.
    ///
    /// # Panics
    /// As [`script`](Self::script).
    #[must_use]
    pub fn script_within(self, limit: Duration, name: &str, args: &[&str], env: &[(&str, &str)]) -> Value {
        let script = self.start(name, args, env);
        let status = script.wait_exit(limit);
        let (stdout, stderr) = (script.stdout(), script.stderr());
        assert!(
            status.success(),
            "{name} under {}: {status}\n{stderr}{stdout}",
            self.environment
        );
        self.last_line(name, &script)
    }

    /// The last line that an ended script printed, parsed as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    #[must_use]
    pub fn last_line(self, name: &str, script: &Process) -> Value {
        let (stdout, stderr) = (script.stdout(), script.stderr());
        let last = stdout
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty())
            .unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|error| {
            panic!(
                "{name} under {}: its last line is not JSON ({error}): {last}\n{stderr}",
                self.environment
            )
        })
    }

    /// Starts `python -m celery <args>` in `tests/python`, where `-A tradebot_app` is found.
    ///
    /// With several at once, `beat` needs the argument `--pidfile=`. Its schedule file is temporary.
    ///
    /// # Panics
    /// When the environment is missing.
    #[must_use]
    pub fn celery(self, args: &[&str], env: &[(&str, &str)]) -> Process {
        self.command()
            .args(["-m", "celery"])
            .args(args)
            .envs(env.iter().copied())
            .spawn()
    }

    /// Starts a worker of `tradebot_app` that runs one task at a time, and waits until it is ready.
    ///
    /// # Panics
    /// When the environment is missing, or the worker is not ready within 60 seconds.
    #[must_use]
    pub fn app_worker(self, env: &[(&str, &str)]) -> Process {
        let app = ["-A", "tradebot_app", "worker", "--pool", "solo"];
        let worker = self.celery(&[&app[..], &["--loglevel", "info"]].concat(), env);
        worker.wait_for_line(" ready.", SCRIPT_TIMEOUT);
        worker
    }

    /// Starts `tests/python/<name>` and leaves it running.
    ///
    /// # Panics
    /// When the environment is missing.
    #[must_use]
    pub fn start(self, name: &str, args: &[&str], env: &[(&str, &str)]) -> Process {
        self.command()
            .arg(scripts().join(name))
            .args(args)
            .envs(env.iter().copied())
            .spawn()
    }

    /// Starts `python -m <module> <args>` in a directory, where it may leave files.
    ///
    /// # Panics
    /// When the environment is missing.
    #[must_use]
    pub fn module(self, module: &str, args: &[&str], directory: &Path) -> Process {
        self.command()
            .args(["-m", module])
            .args(args)
            .current_dir(directory)
            .spawn()
    }

    fn command(self) -> ProcessBuilder {
        Process::builder(self.interpreter())
            .env("PYTHONUNBUFFERED", "1")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .current_dir(scripts())
    }

    fn interpreter(self) -> PathBuf {
        let places = target_dirs();
        let interpreter = |target: &Path| target.join("python").join(self.environment).join("bin/python");
        places
            .iter()
            .map(|target| interpreter(target))
            .find(|path| path.exists())
            .unwrap_or_else(|| {
                panic!(
                    "no virtual environment {} in any of {places:?}: run `make setup`",
                    self.environment
                )
            })
    }
}

/// Where `make setup` may have put the environments: the target directory of the running test comes first, then
/// `CARGO_TARGET_DIR`, then the default one.
fn target_dirs() -> Vec<PathBuf> {
    let workspace = workspace();
    let mut places = Vec::new();
    if let Ok(test) = std::env::current_exe() {
        // target/PROFILE/deps/TEST, or one folder more with `--target`.
        places.extend(test.ancestors().skip(3).take(2).map(Path::to_owned));
    }
    if let Some(target) = std::env::var_os("CARGO_TARGET_DIR") {
        places.push(workspace.join(target));
    }
    places.push(workspace.join("target"));
    places
}

fn scripts() -> PathBuf {
    workspace().join("tests/python")
}

pub(crate) fn workspace() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest
        .ancestors()
        .nth(2)
        .expect("this crate is two folders below the workspace")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::process::Signal;
    use crate::redis_server::RedisServer;

    #[tokio::test]
    async fn a_worker_runs_what_the_script_sends() {
        for python in Python::ALL {
            let server = RedisServer::start();
            let url = server.url();
            let env = [
                ("CELERY_BROKER_URL", url.as_str()),
                ("CELERY_RESULT_BACKEND", url.as_str()),
                ("WITH_WARMUPS", "1"),
            ];
            let worker = python.app_worker(&env);

            let warmup = "app.core.cache_warmup_tasks.warmup_spot_symbols_cache";
            let bot = json!({"name": "app.core.bot_tasks.run_bot_task", "args": [7], "immutable": true});
            let order = json!({"chain": [{"name": warmup}, bot], "wait": 20}).to_string();
            let answer = python.script("send.py", &[&order], &env);
            assert_eq!(
                answer["outcomes"][0]["result"],
                "WARMUP_OK:0",
                "{}",
                python.name()
            );
            assert_eq!(answer["state"], "SUCCESS", "{}", python.name());

            let mut connection = server.connection().await;
            let ran: Vec<String> = redis::cmd("LRANGE")
                .arg(&["tests:ran", "0", "-1"])
                .query_async(&mut connection)
                .await
                .expect("the records");
            let ran: Vec<Value> = ran
                .iter()
                .map(|text| serde_json::from_str(text).expect("a record"))
                .collect();
            assert_eq!(ran.len(), 2);
            assert_eq!(
                (&ran[0]["task"], &ran[0]["id"]),
                (&json!(warmup), &answer["ids"][0])
            );
            assert_eq!((&ran[1]["args"], &ran[1]["id"]), (&json!([7]), &answer["id"]));

            let lists = python.script("read_lists.py", &[], &env);
            assert_eq!(lists["cache:symbols:spot:v1"], Value::Null);
            worker.signal(Signal::SIGTERM);
            assert_eq!(worker.wait_exit(Duration::from_secs(20)).code(), Some(0));
        }
    }

    #[test]
    fn prepares_a_list_under_both_versions() {
        let body = r#"{"symbols":[
            {"symbol":"AAAUSDT","status":"TRADING","baseAsset":"AAA","quoteAsset":"USDT"},
            {"symbol":"BTCUSDT","status":"TRADING","baseAsset":"BTC","quoteAsset":"USDT","extra":1},
            {"symbol":"ETHBTC","status":"TRADING","baseAsset":"ETH","quoteAsset":"BTC"},
            {"symbol":"ETHUSDT","status":"BREAK","baseAsset":"ETH","quoteAsset":"USDT"}]}"#;
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), body).expect("a written file");
        let path = file.path().to_str().expect("a UTF-8 path");
        for python in Python::ALL {
            let answer = python.script("prepare.py", &["spot", path], &[]);
            assert_eq!(answer["count"], 2, "{}", python.name());
            let list: Value = serde_json::from_str(answer["text"].as_str().expect("text")).expect("JSON");
            assert_eq!(list[0]["symbol"], "BTCUSDT");
            assert_eq!(list[1]["symbol"], "AAAUSDT");
        }
    }

    #[test]
    fn a_failing_script_shows_its_stderr() {
        let failing = || Python::CELERY_5_5_2.script("prepare.py", &["spot", "/nowhere.json"], &[]);
        let panic = std::panic::catch_unwind(failing).expect_err("the file does not exist");
        let message = panic.downcast_ref::<String>().expect("a formatted message");
        assert!(message.contains("FileNotFoundError"), "{message}");
    }
}
