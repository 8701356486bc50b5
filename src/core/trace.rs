//! Where the run of a message belongs in a distributed trace: the W3C context in its headers.
//!
//! `traceparent` and `tracestate` are read from a message's headers and written to those of the messages that
//! follow from it, where OpenTelemetry's instrumentation of Python Celery reads and writes them too, and a run is a
//! span of the same name as there, `run/<task>`; a message that the beat makes has a span `apply_async/<task>`. Without
//! the feature `otel` nothing is traced, and the functions here are nothing at run time; with it and no exporter they
//! look at one flag.

use crate::core::canvas::Successor;
use crate::core::wire::envelope::Envelope;
use crate::core::wire::result::State;

#[cfg(feature = "otel")]
pub use on::{TARGET, TaskTrace, client_call, follow, is_on, produced, redis_call, turn_on};

#[cfg(not(feature = "otel"))]
pub use off::{TaskTrace, client_call, follow, produced, redis_call};

#[cfg(not(feature = "otel"))]
mod off {
    use super::{Envelope, State, Successor};

    /// The trace of one run.
    pub struct TaskTrace;

    impl TaskTrace {
        /// The trace of a message's run, a child of its producer's span.
        pub(crate) fn of(_: &Envelope) -> Self {
            Self
        }

        /// Runs a task's future within its span.
        pub(crate) fn follow<F: Future>(&self, run: F) -> impl Future<Output = F::Output> + use<F> {
            run
        }

        /// Makes the run the parent of what follows from it.
        pub(crate) fn pass_on(&self, _: &mut [Successor]) {}

        /// Notes the state that the run ended in.
        pub(crate) fn end(&self, _: &State) {}
    }

    /// Runs a call to another host within a span of its own.
    pub async fn client_call<T, E>(
        _: &str,
        _: &str,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        call.await
    }

    /// Runs what asks Redis within a span of its own.
    pub fn redis_call<F: Future>(_: &'static str, call: F) -> F {
        call
    }

    /// Has a future go on in the span that it was made in, wherever it runs.
    pub fn follow<F: Future>(future: F) -> F {
        future
    }

    /// Gives a new message the span of its producer.
    pub fn produced(_: &mut Envelope, _: &str) {}
}

#[cfg(feature = "otel")]
mod on {
    use std::fmt::Display;
    use std::sync::atomic::{AtomicBool, Ordering};

    use opentelemetry::global::get_text_map_propagator;
    use opentelemetry::propagation::{Extractor, Injector};
    use serde_json::Value;
    use tracing::field::Empty;
    use tracing::{Instrument, Span, info_span};
    use tracing_opentelemetry::OpenTelemetrySpanExt;

    use super::{Envelope, State, Successor};

    /// The target of all spans, by which the log output leaves them out and the exporter picks them.
    pub const TARGET: &str = "tradebot_symbols::trace";

    static ON: AtomicBool = AtomicBool::new(false);

    /// There is an exporter from now on.
    pub fn turn_on() {
        ON.store(true, Ordering::Relaxed);
    }

    /// Whether there is an exporter.
    pub fn is_on() -> bool {
        ON.load(Ordering::Relaxed)
    }

    /// The trace of one run.
    pub struct TaskTrace(Span);

    impl TaskTrace {
        /// The trace of a message's run, a child of its producer's span.
        pub(crate) fn of(message: &Envelope) -> Self {
            if !is_on() {
                return Self(Span::none());
            }
            let span = info_span!(
                target: TARGET,
                "run",
                otel.name = format!("run/{}", message.task()),
                otel.kind = "consumer",
                otel.status_code = Empty,
                otel.status_description = Empty,
                messaging.system = "redis",
                messaging.message.id = message.id(),
                celery.action = "run",
                celery.task_name = message.task(),
                celery.retries = message.retries(),
                celery.state = Empty,
            );
            let parent = get_text_map_propagator(|propagator| propagator.extract(&Headers(message)));
            // Refused only where no exporter is installed.
            let _ = span.set_parent(parent);
            Self(span)
        }

        /// Runs a task's future within its span.
        pub(crate) fn follow<F: Future>(&self, run: F) -> impl Future<Output = F::Output> + use<F> {
            run.instrument(self.0.clone())
        }

        /// Makes the run the parent of what follows from it.
        pub(crate) fn pass_on(&self, successors: &mut [Successor]) {
            if self.0.is_disabled() {
                return;
            }
            let context = self.0.context();
            for next in successors {
                get_text_map_propagator(|propagator| {
                    propagator.inject_context(&context, &mut HeadersMut(&mut next.message));
                });
            }
        }

        /// Notes the state that the run ended in.
        pub(crate) fn end(&self, state: &State) {
            let (name, error) = match state {
                State::Success(_) => ("SUCCESS", None),
                State::Retry(exception, _) => ("RETRY", Some(exception)),
                State::Failure(exception, _) => ("FAILURE", Some(exception)),
                State::Revoked(exception) => ("REVOKED", Some(exception)),
                State::Started { .. } => return,
            };
            self.0.record("celery.state", name);
            if let Some(exception) = error {
                self.0.record("otel.status_code", "ERROR");
                self.0.record("otel.status_description", exception.line());
            }
        }
    }

    /// Runs a call to another host within a span of its own. Its context is not sent along: the other side is
    /// somebody else's.
    pub async fn client_call<T, E: Display>(
        address: &str,
        path: &str,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        if !is_on() {
            return call.await;
        }
        let span = info_span!(
            target: TARGET,
            "GET",
            otel.name = format!("GET {path}"),
            otel.kind = "client",
            otel.status_code = Empty,
            otel.status_description = Empty,
            http.request.method = "GET",
            server.address = address,
            url.path = path,
        );
        let answered = call.instrument(span.clone()).await;
        if let Err(error) = &answered {
            span.record("otel.status_code", "ERROR");
            span.record("otel.status_description", error.to_string());
        }
        answered
    }

    /// Runs what asks Redis within a span of its own. `operation` is the command, or what a script does.
    pub fn redis_call<F: Future>(
        operation: &'static str,
        call: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        let span = if is_on() {
            info_span!(
                target: TARGET,
                "redis",
                otel.name = operation,
                otel.kind = "client",
                db.system.name = "redis",
                db.operation.name = operation,
            )
        } else {
            Span::none()
        };
        call.instrument(span)
    }

    /// Has a future go on in the span that it was made in, wherever it runs.
    pub fn follow<F: Future>(future: F) -> impl Future<Output = F::Output> + use<F> {
        let span = if is_on() { Span::current() } else { Span::none() };
        future.instrument(span)
    }

    /// Gives a new message the span of its producer, which it is the only part of: a run of the task is its child. The
    /// span ends here; it is there even if the message is not sent in the end.
    pub fn produced(message: &mut Envelope, queue: &str) {
        if !is_on() {
            return;
        }
        let span = info_span!(
            target: TARGET,
            "apply_async",
            otel.name = format!("apply_async/{}", message.task()),
            otel.kind = "producer",
            messaging.system = "redis",
            messaging.destination.name = queue,
            messaging.message.id = message.id(),
            celery.action = "apply_async",
            celery.task_name = message.task(),
        );
        let context = span.context();
        get_text_map_propagator(|propagator| propagator.inject_context(&context, &mut HeadersMut(message)));
    }

    struct Headers<'a>(&'a Envelope);

    impl Extractor for Headers<'_> {
        fn get(&self, key: &str) -> Option<&str> {
            self.0.text(key)
        }

        fn keys(&self) -> Vec<&str> {
            // Asked for by no propagator that is used here.
            Vec::new()
        }
    }

    struct HeadersMut<'a>(&'a mut Envelope);

    impl Injector for HeadersMut<'_> {
        fn set(&mut self, key: &str, value: String) {
            self.0.set_header(key, Value::String(value));
        }
    }
}
