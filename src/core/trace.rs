//! Where the run of a message belongs in a distributed trace: the W3C context in its headers.
//!
//! OpenTelemetry's instrumentation of Python Celery reads and writes the same headers (`traceparent`, `tracestate`) and
//! names its spans the same way: `run/<task>` and `apply_async/<task>`.

use tracing::field::Empty;
use tracing::{Instrument, Span, info_span};

use tradebot_base::trace::{self, TARGET};
use tradebot_wire::canvas::Successor;
use tradebot_wire::envelope::Envelope;
use tradebot_wire::result::TaskState;

/// The span of one run of a task.
pub(crate) struct TaskTrace(Span);

impl TaskTrace {
    /// The span of a message's run, a child of its producer's span.
    pub(crate) fn of(message: &Envelope) -> Self {
        let span = trace::span(|| {
            info_span!(
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
            )
        });
        trace::extract(&span, &|name| message.text(name));
        Self(span)
    }

    /// Runs a task's future within the span.
    pub(crate) fn follow<F: Future>(&self, run: F) -> impl Future<Output = F::Output> + use<F> {
        run.instrument(self.0.clone())
    }

    /// Makes the run the parent of the messages that follow from it.
    pub(crate) fn pass_on(&self, successors: &mut [Successor]) {
        for next in successors {
            write_context(&self.0, &mut next.message);
        }
    }

    /// Records the state that the run ended in.
    pub(crate) fn end(&self, state: &TaskState) {
        let (name, error) = match state {
            TaskState::Success(_) => ("SUCCESS", None),
            TaskState::Retry(exception, _) => ("RETRY", Some(exception)),
            TaskState::Failure(exception, _) => ("FAILURE", Some(exception)),
            TaskState::Revoked(exception) => ("REVOKED", Some(exception)),
            TaskState::Started { .. } | TaskState::Custom { .. } => return,
        };
        self.0.record("celery.state", name);
        if let Some(exception) = error
            && !self.0.is_disabled()
        {
            trace::record_error(&self.0, &exception.line());
        }
    }
}

/// Gives a new message the span of its producer, so that the task's run is a child of it. The span ends here, even if
/// the message is not sent in the end.
pub fn produced(message: &mut Envelope, queue: &str) {
    let span = trace::span(|| {
        info_span!(
            target: TARGET,
            "apply_async",
            otel.name = format!("apply_async/{}", message.task()),
            otel.kind = "producer",
            messaging.system = "redis",
            messaging.destination.name = queue,
            messaging.message.id = message.id(),
            celery.action = "apply_async",
            celery.task_name = message.task(),
        )
    });
    write_context(&span, message);
}

fn write_context(span: &Span, message: &mut Envelope) {
    trace::inject(span, &mut |name, value| message.set_header(name, value.into()));
}
