//! What the end of a task does to the rest of its workflow: a failed chain and chords.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;
use tracing::{info, warn};

use super::errbacks::Failed;
use super::settlement::{MAX_MISDIRECTIONS, Settlement};
use super::task_end::Unsent;
use crate::results::chords::{ChordEnd, Count};
use crate::transport::{DeliveryTag, Push};
use tradebot_base::failpoint;
use tradebot_wire::canvas::{self, Abandoned, CanvasContext, ChordPart, Joined, SuccessorPlan};
use tradebot_wire::envelope::Envelope;
use tradebot_wire::result::{Exception, TaskState};

/// How often, and how many times, to check a chord that another worker holds: until the longest claim of any worker
/// (Celery's, with its time to publish) has expired.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
const MAX_LOOKS: usize = 120;
/// The same for results that should be there: together Celery's `result_chord_join_timeout` of 3 seconds.
const JOIN_PAUSE: Duration = Duration::from_millis(50);
const MAX_JOIN_LOOKS: usize = 60;

/// A chord whose body was published together with an acknowledgement, in another database than its parts.
pub(super) struct Unfinished {
    part: ChordPart,
    succeeded: bool,
}

/// What a task's end affects beside its successors.
pub(super) struct Concern {
    /// The chord that waits for its result.
    part: Option<ChordPart>,
    /// What will not run because it has failed.
    abandoned: Vec<Abandoned>,
}

impl Concern {
    /// `None` for most tasks. The body is read only if the task failed or belongs to a group.
    pub(super) fn of(message: &Envelope, state: &TaskState) -> Option<Self> {
        let failed = matches!(state, TaskState::Failure(..));
        if !state.is_ready() || !failed && message.header("group").is_none() {
            return None;
        }
        let body = message.workflow();
        let part = ChordPart::of(message, &body);
        let abandoned = if failed {
            canvas::abandoned(body.embedded("chain"))
        } else {
            Vec::new()
        };
        (part.is_some() || !abandoned.is_empty()).then_some(Self { part, abandoned })
    }
}

/// What a delivery's settlement still has to do after its workflow was updated.
#[derive(Default)]
pub(super) struct Remaining {
    /// To be published with the acknowledgement.
    pub(super) pushes: Vec<Push>,
    /// Chords to be ended after it.
    pub(super) unfinished: Vec<Unfinished>,
    /// Errbacks that were called for the failure of a chord in the header of one that fails for it. Celery links an errback
    /// of the outer chord to both, and calls it once.
    called: Vec<Value>,
}

impl Settlement {
    /// The context in which a message's successors are published.
    pub(super) fn canvas_context<'a>(&'a self, message: &'a Envelope) -> CanvasContext<'a> {
        CanvasContext {
            task_id: message.id(),
            root: message.text("root_id"),
            origin: &self.origin,
            default_queue: &self.default_queue,
            now: self.clock.now(),
        }
    }

    /// Writes the keys that a plan's successors need when they run.
    pub(super) async fn prepare(&self, plan: &SuccessorPlan) -> Option<()> {
        for preparation in &plan.preparations {
            self.until_done("prepare a chord", || self.results.chords().prepare(preparation))
                .await?;
        }
        Some(())
    }

    /// Applies a task's end to its workflow, after its result is stored. Doing it again changes nothing.
    ///
    /// `None` after a cold stop in between: another worker runs the delivery again.
    pub(super) async fn tell_workflow(
        &self,
        tag: &DeliveryTag,
        message: &Envelope,
        concern: Concern,
        state: &TaskState,
    ) -> Option<Remaining> {
        let mut remaining = Remaining::default();
        let context = self.canvas_context(message);
        if let Some(part) = concern.part {
            self.return_part(tag, context, part, state, &mut remaining)
                .await?;
        }
        // With the result of the task ignored, so are those of what follows it.
        let stored = message.ignore_result() != Some(true);
        let failed = (concern.abandoned, [].as_slice());
        self.abandon(tag, context, failed, (state, stored), &mut remaining)
            .await?;
        Some(remaining)
    }

    /// Ends chords that could not be ended before the acknowledgement.
    pub(super) async fn finish_chords(&self, unfinished: Vec<Unfinished>) {
        for Unfinished { part, succeeded } in unfinished {
            self.until_done("end a chord", || {
                self.results
                    .chords()
                    .end(self.transport.keys(), &part, (None, &[]), succeeded)
            })
            .await;
        }
    }

    /// Stores a state for tasks that will never run, and counts them in their chords.
    async fn abandon(
        &self,
        tag: &DeliveryTag,
        context: CanvasContext<'_>,
        (failed, children): (Vec<Abandoned>, &[Value]),
        (state, stored): (&TaskState, bool),
        remaining: &mut Remaining,
    ) -> Option<()> {
        for Abandoned { message, part } in failed {
            if stored && let Some(document) = self.results.document(&message, state, children) {
                self.store(&document).await?;
            }
            if let Some(part) = part {
                // A chord's end may fail another chord's part; signatures are as deep as JSON may be at most.
                Box::pin(self.return_part(tag, context, part, state, remaining)).await?;
            }
        }
        Some(())
    }

    /// Counts a part of a chord, and publishes the body when it was the last.
    async fn return_part(
        &self,
        tag: &DeliveryTag,
        context: CanvasContext<'_>,
        part: ChordPart,
        state: &TaskState,
        remaining: &mut Remaining,
    ) -> Option<()> {
        let joined = match self.count_part(&part, state).await? {
            Count::Complete { mut parts, saved } => {
                failpoint::pass("chord complete");
                self.add_missing(&mut parts, saved.as_ref()).await?;
                canvas::join(&parts, saved.as_ref())
            }
            Count::Waiting | Count::Done | Count::Held(_) => return Some(()),
            Count::Broken => Joined::broken(&part.group),
        };
        let (plan, succeeded) = match joined {
            Joined::Results(results) => (canvas::after_header(context, &part.body, results), true),
            Joined::Failed { error, cause } => {
                warn!(group = part.group, error = error.line(), "a chord has failed");
                let plan = self
                    .fail_body(tag, context, &part, error, cause, remaining)
                    .await?;
                (plan, false)
            }
        };
        self.prepare(&plan).await?;
        let pushes: Vec<Push> = plan
            .successors
            .iter()
            .map(|next| self.publish_push(next))
            .collect();
        self.end_chord(tag, part, pushes, succeeded, remaining).await
    }

    /// Stores the failure of a chord's body, and returns the call of its errbacks.
    async fn fail_body(
        &self,
        tag: &DeliveryTag,
        context: CanvasContext<'_>,
        part: &ChordPart,
        error: Exception,
        cause: Option<Exception>,
        remaining: &mut Remaining,
    ) -> Option<SuccessorPlan> {
        let is_group = part.body["subtask_type"] == "group";
        let exception = cause.filter(|_| is_group).unwrap_or(error);
        let traceback = super::execution::traceback(&exception);
        let state = TaskState::Failure(exception, Some(traceback));
        let failed = canvas::abandoned_body(&part.body);
        let mut plan = SuccessorPlan::default();
        // To Celery the errbacks are children of the failed body, and for a group of each member they were called before.
        let mut children = HashMap::new();
        let called_before = remaining.called.len();
        for (id, mut errbacks) in canvas::errbacks_of_body(&part.body) {
            errbacks.retain(|errback| !remaining.called[..called_before].contains(errback));
            remaining.called.extend(errbacks.iter().cloned());
            let context = CanvasContext {
                task_id: &id,
                root: None,
                ..context
            };
            let failed = Failed {
                id: &id,
                message: None,
            };
            plan.extend(self.call_errbacks(context, failed, &errbacks, &state).await);
            children.insert(id.clone(), plan.children.clone());
        }
        for one in failed {
            let children = match children.get(one.message.id()) {
                Some(children) => children.as_slice(),
                None if is_group => &[],
                None => &plan.children,
            };
            self.abandon(tag, context, (vec![one], children), (&state, true), remaining)
                .await?;
        }
        remaining.called.truncate(called_before);
        Some(plan)
    }

    async fn end_chord(
        &self,
        tag: &DeliveryTag,
        part: ChordPart,
        mut pushes: Vec<Push>,
        succeeded: bool,
        remaining: &mut Remaining,
    ) -> Option<()> {
        if !self.one_database {
            remaining.pushes.append(&mut pushes);
            remaining.unfinished.push(Unfinished { part, succeeded });
            return Some(());
        }
        let keys = self.transport.keys();
        let mut ended = self
            .until_done("end a chord", || {
                self.results
                    .chords()
                    .end(keys, &part, (Some(tag), &pushes), succeeded)
            })
            .await?;
        let mut unsent = Unsent::default();
        for _ in 0..MAX_MISDIRECTIONS {
            if ended != ChordEnd::Misdirected {
                break;
            }
            pushes = self.without_misdirected(tag, pushes, &mut unsent).await?;
            ended = self
                .until_done("end a chord", || {
                    self.results
                        .chords()
                        .end(keys, &part, (Some(tag), &pushes), succeeded)
                })
                .await?;
        }
        remaining.unfinished.append(&mut unsent.unfinished);
        if ended == ChordEnd::Yes {
            self.transport.look_again();
            failpoint::pass("chord ended");
        } else {
            info!(group = part.group, "another worker ends the chord");
        }
        Some(())
    }

    /// Waits a little for results that a header's structure names and that were not counted.
    async fn add_missing(&self, parts: &mut Vec<Value>, saved: Option<&Value>) -> Option<()> {
        for _ in 0..MAX_JOIN_LOOKS {
            let missing = canvas::missing(parts, saved);
            if missing.is_empty() {
                break;
            }
            let documents = self
                .until_done("read results", || self.results.documents(&missing))
                .await?;
            let found: Vec<Value> = documents.iter().filter_map(canvas::part_of_document).collect();
            if found.is_empty() {
                self.pause(JOIN_PAUSE).await?;
            }
            parts.extend(found);
        }
        Some(())
    }

    /// Waits; `None` after a cold stop.
    async fn pause(&self, pause: Duration) -> Option<()> {
        tokio::select! {
            biased;
            () = self.stop.cold() => None,
            () = tokio::time::sleep(pause) => Some(()),
        }
    }

    /// Counts a part; waits while another worker, which may be dead, holds the complete chord.
    async fn count_part(&self, part: &ChordPart, state: &TaskState) -> Option<Count> {
        let mut count = Count::Waiting;
        for _ in 0..MAX_LOOKS {
            count = self
                .until_done("return a part of a chord", || {
                    self.results.chords().count(part, state)
                })
                .await?;
            let Count::Held(left) = count else { break };
            self.pause(left.clamp(Duration::from_millis(1), LOOK_AGAIN))
                .await?;
        }
        Some(count)
    }
}
