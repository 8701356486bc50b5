//! A child process whose output a test can wait for.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{kill, killpg};
use nix::unistd::Pid;

use crate::eventually::stretched;
use crate::output::{Output, Pipe};

pub use nix::sys::signal::Signal;

/// The variables a child inherits. The test sets all others, so variables of a developer's machine have no effect.
const INHERITED: [&str; 4] = ["PATH", "HOME", "LANG", "TMPDIR"];
/// How long to wait for the rest of the output of an ended process: a grandchild may hold the pipes open.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(1);

/// A running child process with captured output.
///
/// It leads a new process group. Dropping this kills the group, with the children of a pre-forking Celery worker. If
/// the test is failing then, the captured output is printed.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    child: Mutex<Child>,
    output: Arc<Output>,
}

/// How to start a [`Process`].
#[derive(Clone, Debug)]
pub struct ProcessBuilder {
    program: OsString,
    args: Vec<OsString>,
    env: BTreeMap<OsString, OsString>,
    directory: Option<PathBuf>,
}

/// The path of a binary of this workspace, beside the running test executable.
///
/// # Panics
/// When it has not been built.
#[must_use]
pub fn bin(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of the test executable");
    // The test is target/PROFILE/deps/TEST, and the binaries are one folder up.
    let path = test
        .parent()
        .and_then(|deps| deps.parent())
        .map(|profile| profile.join(name));
    match path {
        Some(path) if path.is_file() => path,
        _ => panic!(
            "there is no {name} beside {}; build it first: cargo build --workspace",
            test.display()
        ),
    }
}

impl Process {
    /// Describes a process to start. `program` is a path, or a name to look up in `PATH`.
    pub fn builder(program: impl AsRef<OsStr>) -> ProcessBuilder {
        ProcessBuilder {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: BTreeMap::new(),
            directory: None,
        }
    }

    /// Waits until a line of stdout or stderr contains `text`, and returns the first such line. Lines printed before
    /// the call count too.
    ///
    /// Blocks the thread: a test with other tasks to run meanwhile needs a multi-threaded runtime.
    ///
    /// # Panics
    /// With the whole output, when the line does not come in time or the process ends without it.
    pub fn wait_for_line(&self, text: &str, timeout: Duration) -> String {
        self.wait_for_nth_line(text, 1, timeout)
    }

    /// Like [`wait_for_line`](Self::wait_for_line), for the `nth` line (from 1) that contains `text`.
    ///
    /// # Panics
    /// With the whole output, when the line does not come in time or the process ends without it.
    pub fn wait_for_nth_line(&self, text: &str, nth: usize, timeout: Duration) -> String {
        let timeout = stretched(timeout);
        let deadline = Instant::now() + timeout;
        let mut state = self.output.state();
        loop {
            let mut found = state.lines.iter().filter(|(_, line)| line.contains(text));
            if let Some((_, line)) = found.nth(nth - 1) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.open_pipes == 0 || left.is_zero() {
                let fate = if left.is_zero() {
                    format!("ran {timeout:?}")
                } else {
                    "ended".to_owned()
                };
                drop(state);
                let output = self.quoted();
                panic!(
                    "{} {fate} without line {nth} that contains `{text}`{output}",
                    self.name
                );
            }
            state = self.output.wait(state, left);
        }
    }

    /// Everything printed so far, stdout and stderr together.
    #[must_use]
    pub fn output(&self) -> String {
        self.output.text(|_| true)
    }

    /// Everything printed to stdout so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.output.text(|pipe| pipe == Pipe::Stdout)
    }

    /// Everything printed to stderr so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.output.text(|pipe| pipe == Pipe::Stderr)
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    /// Sends `signal` to the process, not to its group. Does nothing if it has ended.
    ///
    /// # Panics
    /// When the system refuses to send it.
    pub fn signal(&self, signal: Signal) {
        // The lock is held and the child is not reaped, so the id cannot belong to another process yet.
        let mut child = self.child();
        if exited(&mut child).is_none() {
            kill(self.pid, signal)
                .unwrap_or_else(|error| panic!("cannot send {signal} to {}: {error}", self.name));
        }
    }

    /// Waits for the end of the process, and for the rest of its output.
    ///
    /// # Panics
    /// With the whole output, when it is still running after `timeout`.
    pub fn wait_exit(&self, timeout: Duration) -> ExitStatus {
        let timeout = stretched(timeout);
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = exited(&mut self.child()) {
                self.output.wait_for_end(stretched(OUTPUT_PATIENCE));
                return status;
            }
            if Instant::now() >= deadline {
                panic!(
                    "{} is still running after {timeout:?}{}",
                    self.name,
                    self.quoted()
                );
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether the process has not ended yet.
    #[must_use]
    pub fn is_running(&self) -> bool {
        exited(&mut self.child()).is_none()
    }

    fn quoted(&self) -> String {
        format!(
            "\n--- output of {} ---\n{}--- end of output ---",
            self.name,
            self.output()
        )
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if the processes are already gone.
        let _ = killpg(self.pid, Signal::SIGKILL);
        let _ = self.child().kill();
        let _ = self.child().wait();
        if thread::panicking() {
            self.output.wait_for_end(stretched(OUTPUT_PATIENCE));
            println!("{}", self.quoted().trim_start());
        }
    }
}

impl ProcessBuilder {
    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable. From the test's environment the child inherits only `PATH`, `HOME`, `LANG` and `TMPDIR`.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .insert(name.as_ref().to_owned(), value.as_ref().to_owned());
        self
    }

    /// Sets variables, see [`env`](Self::env).
    #[must_use]
    pub fn envs(self, vars: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>) -> Self {
        vars.into_iter()
            .fold(self, |builder, (name, value)| builder.env(name, value))
    }

    /// Sets the working directory.
    #[must_use]
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Starts the process.
    ///
    /// # Panics
    /// When the program cannot be started.
    #[must_use]
    pub fn spawn(self) -> Process {
        let name = PathBuf::from(&self.program).file_name().map_or_else(
            || "process".to_owned(),
            |name| name.to_string_lossy().into_owned(),
        );
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .env_clear()
            .stdin(Stdio::null())
            .process_group(0);
        command.envs(
            INHERITED
                .iter()
                .filter_map(|name| Some((name, std::env::var_os(name)?))),
        );
        command
            .envs(&self.env)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let output = Arc::new(Output::default());
        output.capture(Pipe::Stdout, child.stdout.take().expect("stdout is piped"));
        output.capture(Pipe::Stderr, child.stderr.take().expect("stderr is piped"));
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("process ids fit an i32"));
        Process {
            name,
            pid,
            child: Mutex::new(child),
            output,
        }
    }
}

fn exited(child: &mut Child) -> Option<ExitStatus> {
    child.try_wait().expect("the process is a child of the test")
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn sh(script: &str) -> ProcessBuilder {
        Process::builder("sh").args(["-c", script])
    }

    #[test]
    fn captures_both_streams_and_the_exit_code() {
        let process = sh("echo one; echo two >&2; printf three; exit 7").spawn();
        assert_eq!(process.wait_for_line("tw", PATIENCE), "two");
        assert_eq!(process.wait_exit(PATIENCE).code(), Some(7));
        assert_eq!(process.stdout(), "one\nthree\n");
        assert_eq!(process.stderr(), "two\n");
        assert_eq!(process.output().lines().count(), 3);
        assert!(!process.is_running());
        process.signal(Signal::SIGTERM);
    }

    #[test]
    fn waits_for_the_nth_line() {
        let process = sh("echo tick 1; sleep 0.2; echo tick 2; sleep 60").spawn();
        assert_eq!(process.wait_for_nth_line("tick", 2, PATIENCE), "tick 2");
        assert!(process.is_running());
        process.signal(Signal::SIGTERM);
        assert_eq!(process.wait_exit(PATIENCE).signal(), Some(15));
    }

    #[test]
    fn a_missing_line_shows_the_whole_output() {
        let process = sh("echo something else").spawn();
        let waiting = std::panic::AssertUnwindSafe(|| process.wait_for_line("ready", PATIENCE));
        let panic = std::panic::catch_unwind(waiting).expect_err("the line never comes");
        let message = panic.downcast_ref::<String>().expect("a formatted message");
        assert!(
            message.contains("sh ended without line 1 that contains `ready`"),
            "{message}"
        );
        assert!(message.contains("something else"), "{message}");
    }

    #[test]
    fn the_child_gets_a_clean_environment() {
        let process = sh("env").env("GIVEN", "yes").spawn();
        process.wait_exit(PATIENCE);
        let names: Vec<_> = process
            .stdout()
            .lines()
            .filter_map(|line| Some(line.split_once('=')?.0.to_owned()))
            .collect();
        assert!(names.iter().any(|name| name == "GIVEN"));
        // The shell sets a few itself.
        let known = |name: &str| {
            INHERITED.contains(&name) || ["GIVEN", "PWD", "SHLVL", "_", "OLDPWD"].contains(&name)
        };
        assert!(names.iter().all(|name| known(name)), "{names:?}");
    }

    #[test]
    fn dropping_ends_grandchildren_too() {
        let process = sh("sleep 300 & echo $!; wait").spawn();
        let grandchild: i32 = process.wait_for_line("", PATIENCE).parse().expect("a process id");
        drop(process);
        let deadline = Instant::now() + stretched(PATIENCE);
        // Init reaps the orphan; without an init that reaps, it stays a zombie.
        while !ended(grandchild) {
            assert!(
                Instant::now() < deadline,
                "the grandchild {grandchild} is still running"
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn ended(pid: i32) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| {
            stat.rsplit(')')
                .next()
                .is_some_and(|rest| rest.trim_start().starts_with('Z'))
        })
    }
}
