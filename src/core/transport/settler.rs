//! Settling in batches.
//!
//! Each delivery is settled by its own caller. While one settlement is on its way to the server, the ones that arrive
//! meanwhile wait and then go together, in one script. An idle worker settles at once. No background task is needed: a
//! caller that finds the line free takes everything that waits along.
//!
//! Measured on two shared cores with a local Redis, settlements a second: 110,000 instead of 75,000 with 8 callers,
//! 150,000 instead of 83,000 with 64, and the same with one.

use std::collections::VecDeque;
use std::sync::{LazyLock, Mutex, PoisonError};

use redis::{Script, ScriptInvocation};
use tokio::sync::oneshot;

use super::{DeliveryTag, End, Keys, Push, Settled, StoredResult};
use tradebot_base::connection::{Connection, RedisTrouble};

/// The most deliveries one script settles; bounds the time the server spends on it.
const MAX_BATCH: usize = 128;

static SETTLE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        include_str!("scripts/store_result.lua"),
        include_str!("scripts/settle.lua")
    ))
});

/// The line in front of the settling script.
#[derive(Default)]
pub(super) struct Settler {
    waiting: Mutex<VecDeque<Batch>>,
    line: tokio::sync::Mutex<()>,
}

/// What one script call will settle.
struct Batch {
    call: ScriptInvocation<'static>,
    answers: Vec<oneshot::Sender<Result<Settled, RedisTrouble>>>,
}

impl Settler {
    /// Settles one delivery, together with others that wait.
    pub(super) async fn settle(
        &self,
        connection: &Connection,
        keys: &Keys,
        tag: &DeliveryTag,
        result: Option<&StoredResult>,
        pushes: &[Push],
    ) -> Result<Settled, RedisTrouble> {
        let (answer, mut answered) = oneshot::channel();
        self.join_line(keys, tag, result, pushes, answer);
        loop {
            // Both branches are cancel-safe. A request whose caller is gone is settled with the next batch.
            let _line = tokio::select! {
                biased;
                Ok(answer) = &mut answered => return answer,
                line = self.line.lock() => line,
            };
            if let Ok(answer) = answered.try_recv() {
                return answer;
            }
            self.send_batch(connection).await;
            if let Ok(answer) = answered.try_recv() {
                return answer;
            }
        }
    }

    fn join_line(
        &self,
        keys: &Keys,
        tag: &DeliveryTag,
        result: Option<&StoredResult>,
        pushes: &[Push],
        answer: oneshot::Sender<Result<Settled, RedisTrouble>>,
    ) {
        let mut waiting = self.waiting();
        if waiting
            .back()
            .is_none_or(|batch| batch.answers.len() == MAX_BATCH)
        {
            let mut call = SETTLE.prepare_invoke();
            call.key(keys.unacked()).key(keys.unacked_index());
            let answers = Vec::new();
            waiting.push_back(Batch { call, answers });
        }
        let Some(batch) = waiting.back_mut() else { return };
        batch.answers.push(answer);
        let call = &mut batch.call;
        if let Some(result) = result {
            call.key(&result.key);
        }
        let (document, expires) =
            result.map_or(("", 0), |result| (&*result.document, result.expires_seconds));
        call.arg(&tag.0).arg(document).arg(expires).arg(pushes.len());
        for push in pushes {
            let end = if push.end == End::Front { "R" } else { "L" };
            call.key(&push.list).arg(end).arg(&push.message);
        }
    }

    async fn send_batch(&self, connection: &Connection) {
        let Some(Batch { call, answers }) = self.waiting().pop_front() else {
            return;
        };
        let settled: Result<Vec<i64>, RedisTrouble> = connection.script(None, &call).await;
        for (number, answer) in answers.into_iter().enumerate() {
            let one = settled.as_ref().map_err(Clone::clone).map(|flags| {
                let flag = |place: usize| flags.get(2 * number + place).copied().unwrap_or_default();
                Settled {
                    held: flag(0) == 1,
                    misdirected: flag(0) == -1,
                    stored: flag(1) > 0,
                    announced: flag(1) != 2,
                }
            });
            // A caller that is gone needs no answer.
            let _ = answer.send(one);
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, VecDeque<Batch>> {
        // Locked for a push or a pop, never across an await.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
