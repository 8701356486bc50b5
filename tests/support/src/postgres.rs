//! A real PostgreSQL server, shared by the tests of one process.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User};
use tempfile::TempDir;

use crate::eventually::stretched;
use crate::port::free_port;

const START_PATIENCE: Duration = Duration::from_secs(60);
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// The role that owns the databases.
const OWNER: &str = "tradebot";

/// A PostgreSQL server on a free port of 127.0.0.1, in a temporary directory, without fsync.
///
/// PostgreSQL refuses to run as root; for root it runs as the user `postgres` of Debian's package. Dropping it stops
/// the server and removes the directory.
#[derive(Debug)]
pub struct PostgresServer {
    port: u16,
    directory: TempDir,
    child: Mutex<Child>,
    databases: AtomicUsize,
}

/// A separate database for one test.
#[derive(Debug)]
pub struct Database {
    server: Arc<PostgresServer>,
    name: String,
}

impl PostgresServer {
    /// The password of the databases' owner. It needs escaping in a URL.
    pub const PASSWORD: &str = "canary-database-p@ss/w:rd?#%";

    /// The server that the tests of this process share. The first call starts it.
    ///
    /// # Panics
    /// When PostgreSQL is not installed or does not come up.
    #[must_use]
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<PostgresServer>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Self::start(&[]));
            *shared = Arc::downgrade(&server);
            server
        })
    }

    /// Starts a server with TLS, from a certificate and a key in PEM.
    ///
    /// # Panics
    /// When PostgreSQL is not installed or does not come up.
    #[must_use]
    pub fn start_with_tls(certificate: &str, key: &str) -> Arc<Self> {
        Arc::new(Self::start(&[("server.crt", certificate), ("server.key", key)]))
    }

    /// Creates an empty database.
    ///
    /// # Panics
    /// When it cannot be created.
    #[must_use]
    pub fn database(self: &Arc<Self>) -> Database {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let port = self.port.to_string();
        let made = Command::new(program("createdb"))
            .args(["-h", "127.0.0.1", "-p", &port, "-U", OWNER, &name])
            .env("PGPASSWORD", Self::PASSWORD)
            .output()
            .unwrap_or_else(|error| missing(&error));
        let stderr = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "createdb {name}: {stderr}");
        Database {
            server: Arc::clone(self),
            name,
        }
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    fn start(tls: &[(&str, &str)]) -> Self {
        let mut failure = String::new();
        for _ in 0..5 {
            // Another test may take the port before the server does; then try another one.
            match Self::launch(tls) {
                Ok(server) => return server,
                Err(error) => failure = error,
            }
        }
        panic!("PostgreSQL does not start: {failure}");
    }

    fn launch(tls: &[(&str, &str)]) -> Result<Self, String> {
        let directory = tempfile::tempdir().expect("a temporary directory for PostgreSQL");
        let account = unprivileged();
        give(directory.path(), account.as_ref());
        let data = directory.path().join("data");
        let password = put(&directory, "password", Self::PASSWORD, account.as_ref());
        let initdb = command("initdb", account.as_ref())
            .args([
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            ])
            .arg(format!("--username={OWNER}"))
            .arg(format!("--pwfile={}", password.display()))
            .arg(&data)
            .output()
            .unwrap_or_else(|error| missing(&error));
        if !initdb.status.success() {
            return Err(format!("initdb: {}", String::from_utf8_lossy(&initdb.stderr)));
        }
        let port = free_port();
        let log_path = directory.path().join("postgres.log");
        let log = File::create(&log_path).expect("a log file");
        let mut server = command("postgres", account.as_ref());
        server
            .arg("-D")
            .arg(&data)
            .args(["-p", &port.to_string()])
            .args([
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                "unix_socket_directories=",
            ])
            .args([
                "-c",
                "fsync=off",
                "-c",
                "shared_buffers=16MB",
                "-c",
                "max_connections=50",
            ])
            .stdout(log.try_clone().expect("a second handle of the log file"))
            .stderr(log);
        for (name, content) in tls {
            let file = put(&directory, name, content, account.as_ref());
            let option = if name.ends_with("crt") {
                "ssl_cert_file"
            } else {
                "ssl_key_file"
            };
            server
                .args(["-c", "ssl=on"])
                .arg("-c")
                .arg(format!("{option}={}", file.display()));
        }
        let child = server.spawn().unwrap_or_else(|error| missing(&error));
        let server = Self {
            port,
            directory,
            child: Mutex::new(child),
            databases: AtomicUsize::new(0),
        };
        server.await_ready(&log_path)?;
        Ok(server)
    }

    /// Waits until the log of *this* process says so, because another server may have taken the port.
    fn await_ready(&self, log_path: &Path) -> Result<(), String> {
        let deadline = Instant::now() + stretched(START_PATIENCE);
        loop {
            let log = std::fs::read_to_string(log_path).unwrap_or_default();
            if log.contains("database system is ready to accept connections") {
                return Ok(());
            }
            let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(status) = child.try_wait().expect("PostgreSQL is a child of the test") {
                return Err(format!("it ended at once, {status}\n{log}"));
            }
            drop(child);
            if Instant::now() > deadline {
                return Err(format!("it does not get ready\n{log}"));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("process ids fit an i32"));
        // An "immediate shutdown" also ends the server's children, as SIGKILL would not. It fails only if the server is
        // gone.
        let _ = kill(pid, Signal::SIGQUIT);
        let deadline = Instant::now() + stretched(STOP_PATIENCE);
        while Instant::now() < deadline {
            if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
        // The directory is removed after this, when its field is dropped.
        let _ = self.directory.path();
    }
}

impl Database {
    /// The URL as the existing deployment writes it, for SQLAlchemy with asyncpg.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_via(self.server.port)
    }

    /// The same through a proxy on another port of 127.0.0.1.
    #[must_use]
    pub fn url_via(&self, port: u16) -> String {
        let password: String = PostgresServer::PASSWORD
            .bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'-' => char::from(byte).to_string(),
                other => format!("%{other:02X}"),
            })
            .collect();
        format!(
            "postgresql+asyncpg://{OWNER}:{password}@{}:{port}/{}",
            Ipv4Addr::LOCALHOST,
            self.name
        )
    }

    /// The server's port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.server.port
    }

    /// The database's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The role that owns it.
    #[must_use]
    pub fn owner(&self) -> &'static str {
        OWNER
    }
}

/// The account to switch to; only needed when the tests run as root.
fn unprivileged() -> Option<User> {
    if !Uid::effective().is_root() {
        return None;
    }
    let known = ["postgres", "nobody"].into_iter();
    let account = known
        .filter_map(|name| User::from_name(name).ok().flatten())
        .next();
    Some(account.expect("PostgreSQL does not run as root, and there is no user `postgres` or `nobody`"))
}

fn command(name: &str, account: Option<&User>) -> Command {
    let mut command = Command::new(program(name));
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LC_ALL", "C")
        .stdin(Stdio::null());
    // Its account may not be able to enter the test's folder.
    command.current_dir("/");
    if let Some(account) = account {
        command.uid(account.uid.as_raw()).gid(account.gid.as_raw());
    }
    command
}

/// Debian keeps the server programs of each release in a separate folder.
fn program(name: &str) -> PathBuf {
    let releases = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut found: Vec<PathBuf> = releases
        .map(|release| release.path().join("bin").join(name))
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found.pop().unwrap_or_else(|| PathBuf::from(name))
}

fn give(path: &Path, account: Option<&User>) {
    if let Some(account) = account {
        let (uid, gid) = (account.uid.as_raw(), account.gid.as_raw());
        chown(path, Some(uid), Some(gid)).expect("root may give files away");
    }
}

fn put(directory: &TempDir, name: &str, content: &str, account: Option<&User>) -> PathBuf {
    let path = directory.path().join(name);
    std::fs::write(&path, content).expect("a written file");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("permissions");
    give(&path, account);
    path
}

fn missing<T>(error: &std::io::Error) -> T {
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            panic!("PostgreSQL is not installed: `apt-get install postgresql`, or `make setup`")
        }
        _ => panic!("cannot run PostgreSQL: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_test_gets_a_separate_database_and_the_server_ends_with_the_last() {
        let server = PostgresServer::shared();
        let again = PostgresServer::shared();
        assert!(Arc::ptr_eq(&server, &again));
        let (one, other) = (server.database(), server.database());
        assert_ne!(one.name(), other.name());
        assert!(one.url().starts_with(
            "postgresql+asyncpg://tradebot:canary-database-p%40ss%2Fw%3Ard%3F%23%25@127.0.0.1:"
        ));
        let port = server.port();
        drop((server, again, one, other));
        assert!(
            std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err(),
            "the server still listens"
        );
    }
}
