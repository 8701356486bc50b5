//! A real `redis-server` for one test.

use std::fs::File;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use tempfile::TempDir;

use crate::eventually::stretched;
use crate::port::free_port;

const START_PATIENCE: Duration = Duration::from_secs(10);
/// The default of redis-rs is 500 ms, too little for a paused server or a busy machine.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// The time limit of one check whether the server is up.
const INFO_TIMEOUT: Duration = Duration::from_secs(1);

/// A `redis-server` process on a free port of 127.0.0.1, with a temporary directory and no persistence.
///
/// Dropping it stops the process and removes the directory.
#[derive(Debug)]
pub struct RedisServer {
    port: u16,
    directory: TempDir,
    extra: Vec<String>,
    child: Mutex<Option<Child>>,
}

impl RedisServer {
    /// Starts a server and waits until it answers.
    ///
    /// # Panics
    /// When `redis-server` is not installed or does not come up.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Like [`start`](Self::start), with more arguments, for example `&["--appendonly", "yes"]`. They come last on the
    /// command line and override the harness's own.
    ///
    /// # Panics
    /// When `redis-server` is not installed or does not come up.
    #[must_use]
    pub fn start_with(extra: &[&str]) -> Self {
        let mut failure = String::new();
        for _ in 0..5 {
            let server = Self {
                port: free_port(),
                directory: tempfile::tempdir().expect("a temporary directory for redis-server"),
                extra: extra.iter().map(|&arg| arg.to_owned()).collect(),
                child: Mutex::new(None),
            };
            // Another test may take the port before the server does; then try another one.
            match server.launch() {
                Ok(()) => return server,
                Err(error) => failure = error,
            }
        }
        panic!("redis-server does not start: {failure}");
    }

    /// `redis://127.0.0.1:PORT/0`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}:{}/0", Ipv4Addr::LOCALHOST, self.port)
    }

    /// Makes a user with these rules of `ACL SETUSER`, in place of an earlier one, and returns the URL to connect as it.
    ///
    /// # Panics
    /// When the server refuses it.
    pub async fn user(&self, name: &str, rules: &str) -> String {
        let mut set = redis::cmd("ACL");
        set.arg(&["SETUSER", name, "reset", "on", ">secret"])
            .arg(rules.split_whitespace().collect::<Vec<_>>());
        let made: redis::RedisResult<()> = set.query_async(&mut self.connection().await).await;
        made.unwrap_or_else(|error| panic!("ACL SETUSER {name} {rules}: {error}"));
        self.url().replace("://", &format!("://{name}:secret@"))
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A new connection whose commands may take 30 seconds.
    ///
    /// # Panics
    /// When the server refuses it.
    pub async fn connection(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.url()).expect("the URL of the harness is valid");
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(stretched(RESPONSE_TIMEOUT)))
            .set_response_timeout(Some(stretched(RESPONSE_TIMEOUT)));
        client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .unwrap_or_else(|error| panic!("no connection to {}: {error}", self.url()))
    }

    /// Stops the process with SIGSTOP, so that connections stay open without an answer. Returns once it has stopped.
    ///
    /// # Panics
    /// When the server is not running.
    pub fn pause(&self) {
        let pid = self.pid();
        self.signal(Signal::SIGSTOP);
        waitpid(pid, Some(WaitPidFlag::WUNTRACED)).expect("redis-server is a child of the test");
    }

    /// Resumes a paused server.
    ///
    /// # Panics
    /// When the server is not running.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Kills the process (SIGKILL). The directory stays for [`restart`](Self::restart).
    pub fn kill(&self) {
        let Some(mut child) = self.child().take() else {
            return;
        };
        // SIGKILL would end a stopped process too, but it is simpler to reason about a running one. Both fail only if
        // the process has already ended.
        let _ = kill(pid_of(&child), Signal::SIGCONT);
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Starts the server again on the same port and directory; kills it first if it is running.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn restart(&self) {
        self.kill();
        self.launch()
            .unwrap_or_else(|error| panic!("redis-server does not start again: {error}"));
    }

    fn launch(&self) -> Result<(), String> {
        let log_path = self.directory.path().join("redis-server.log");
        let log = File::options()
            .create(true)
            .append(true)
            .open(&log_path)
            .expect("a log file");
        let mut child = Command::new("redis-server")
            .args([
                "--port",
                &self.port.to_string(),
                "--bind",
                "127.0.0.1",
                "--daemonize",
                "no",
            ])
            .args(["--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(self.directory.path())
            .args(&self.extra)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of the log file"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| missing(&error));
        let outcome = self.await_ready(&mut child);
        *self.child() = Some(child);
        outcome.map_err(|reason| {
            self.kill();
            let log = std::fs::read_to_string(&log_path).unwrap_or_default();
            format!("{reason} (port {})\n{log}", self.port)
        })
    }

    /// Waits until *this* process answers, because another server may have taken the port.
    fn await_ready(&self, child: &mut Child) -> Result<(), String> {
        let process_id = format!("process_id:{}\r\n", child.id());
        let deadline = Instant::now() + stretched(START_PATIENCE);
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait().expect("redis-server is a child of the test") {
                return Err(format!("it ended right away, {status}"));
            }
            match self.info() {
                // While loading its data it answers INFO and refuses the rest.
                Ok(info) if info.contains("loading:1") => {}
                Ok(info) if info.contains(&process_id) => return Ok(()),
                Ok(_) => return Err("another server has the port".to_owned()),
                Err(_) => {}
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err("it does not answer PING".to_owned())
    }

    fn info(&self) -> redis::RedisResult<String> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_connection_with_timeout(stretched(INFO_TIMEOUT))?;
        connection.set_read_timeout(Some(stretched(INFO_TIMEOUT)))?;
        redis::cmd("PING").exec(&mut connection)?;
        redis::cmd("INFO").query(&mut connection)
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid(), signal)
            .unwrap_or_else(|error| panic!("cannot send {signal} to redis-server: {error}"));
    }

    fn pid(&self) -> Pid {
        pid_of(self.child().as_ref().expect("redis-server is running"))
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("process ids fit an i32"))
}

fn missing(error: &std::io::Error) -> Child {
    match error.kind() {
        ErrorKind::NotFound => {
            panic!("redis-server is not installed: `apt-get install redis-server`, or `make setup`")
        }
        _ => panic!("cannot run redis-server: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ping(server: &RedisServer) -> Option<String> {
        let mut connection = server.connection().await;
        let ping = redis::cmd("PING");
        let answer = ping.query_async::<String>(&mut connection);
        let answer = tokio::time::timeout(Duration::from_millis(300), answer)
            .await
            .ok()?;
        Some(answer.expect("a PING that is answered"))
    }

    #[tokio::test]
    async fn a_paused_server_accepts_and_does_not_answer() {
        let server = RedisServer::start();
        assert_eq!(ping(&server).await.as_deref(), Some("PONG"));
        server.pause();
        let held = async {
            let client = redis::Client::open(server.url()).expect("a valid URL");
            client.get_multiplexed_async_connection().await
        };
        assert!(
            tokio::time::timeout(Duration::from_millis(300), held)
                .await
                .map_or(true, |it| it.is_err())
        );
        server.resume();
        assert_eq!(ping(&server).await.as_deref(), Some("PONG"));
    }

    #[tokio::test]
    async fn a_restart_keeps_port_and_directory_and_forgets_without_persistence() {
        for (args, kept) in [
            (&[][..], None),
            (&["--appendonly", "yes", "--appendfsync", "always"][..], Some(1)),
        ] {
            let server = RedisServer::start_with(args);
            let mut connection = server.connection().await;
            redis::cmd("SET")
                .arg("k")
                .arg(1)
                .exec_async(&mut connection)
                .await
                .expect("SET");
            server.kill();
            assert!(
                redis::Client::open(server.url())
                    .expect("a valid URL")
                    .get_connection()
                    .is_err()
            );
            server.restart();
            let mut connection = server.connection().await;
            let value: Option<i32> = redis::cmd("GET")
                .arg("k")
                .query_async(&mut connection)
                .await
                .expect("GET");
            assert_eq!(value, kept, "{args:?}");
        }
    }
}
