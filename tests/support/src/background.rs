//! Runs a server of the harness on a separate thread and runtime.
//!
//! Tests block while they wait for a line of output or a Python script. A server on the test's own runtime would
//! stop with them.

use std::future::Future;
use std::thread::{self, JoinHandle};

use tokio::runtime;
use tokio::sync::oneshot;

/// A future that runs on its own thread until this is dropped.
#[derive(Debug)]
pub(crate) struct Background {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Starts `work` on a new thread named `name`. Tasks that it spawns end with it.
    pub(crate) fn start(name: &str, work: impl Future<Output = ()> + Send + 'static) -> Self {
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("the harness can make a runtime");
            runtime.block_on(async {
                tokio::select! {
                    () = work => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            stop: Some(stop),
            thread: Some(thread.expect("the harness can start a thread")),
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Fails only if the work has already ended.
        let _ = self.stop.take().map(|stop| stop.send(()));
        let panicked = self.thread.take().is_some_and(|thread| thread.join().is_err());
        if panicked && !thread::panicking() {
            panic!("a server of the test harness panicked, see above");
        }
    }
}
