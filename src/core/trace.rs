//! Where the run of a message belongs in a distributed trace: the W3C context in its headers.
//!
//! `traceparent` and `tracestate` are read from a message's headers and written to those of the messages that
//! follow from it, where OpenTelemetry's instrumentation of Python Celery reads and writes them too, and a run is a
//! span of the same name as there, `run/<task>`. Without the feature `otel` nothing is traced, and the functions
//! here are nothing at run time.

use crate::core::canvas::Successor;
use crate::core::wire::envelope::Envelope;
use crate::core::wire::result::State;

#[cfg(feature = "otel")]
pub use on::{TARGET, TaskTrace, client_call};

#[cfg(not(feature = "otel"))]
pub use off::{TaskTrace, client_call};

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
}

#[cfg(feature = "otel")]
mod on {
    use std::fmt::Display;

    use opentelemetry::global::get_text_map_propagator;
    use opentelemetry::propagation::{Extractor, Injector};
    use serde_json::Value;
    use tracing::field::Empty;
    use tracing::{Instrument, Span, info_span};
    use tracing_opentelemetry::OpenTelemetrySpanExt;

    use super::{Envelope, State, Successor};

    /// The target of all spans, by which the log output leaves them out and the exporter picks them.
    pub const TARGET: &str = "tradebot_symbols::trace";

    /// The trace of one run.
    pub struct TaskTrace(Span);

    impl TaskTrace {
        /// The trace of a message's run, a child of its producer's span.
        pub(crate) fn of(message: &Envelope) -> Self {
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
            if !span.is_disabled() {
                let parent = get_text_map_propagator(|propagator| propagator.extract(&Headers(message)));
                // Refused only where no exporter is installed.
                let _ = span.set_parent(parent);
            }
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
