//! Settling in batches.
//!
//! Each delivery is settled by its own caller, but while one settlement is on its way to the server those
//! that come meanwhile wait and then go together, in one script. Under load that saves a round trip and a
//! script call per task; an idle worker settles at once. There is no task behind it: whoever finds the
//! line free takes everything that waits along.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use redis::Script;
use tokio::sync::oneshot;

use super::{Connection, DeliveryTag, End, Keys, Push, RedisTrouble, ScriptCall, Settled, StoredResult};

/// The most deliveries one script settles; bounds the time the server spends on it.
const MAX_BATCH: usize = 128;

/// The script and the line in front of it.
pub(super) struct Settler {
    script: Script,
    waiting: Mutex<VecDeque<Request>>,
    line: tokio::sync::Mutex<()>,
}

struct Request {
    keys: Vec<Vec<u8>>,
    args: Vec<Vec<u8>>,
    answer: oneshot::Sender<Result<Settled, RedisTrouble>>,
}

impl Settler {
    pub(super) fn new() -> Self {
        Self {
            script: Script::new(include_str!("scripts/settle.lua")),
            waiting: Mutex::default(),
            line: tokio::sync::Mutex::default(),
        }
    }

    /// Settles one delivery, perhaps together with others.
    pub(super) async fn settle(
        &self,
        connection: &Connection,
        keys: &Keys,
        tag: &DeliveryTag,
        result: Option<&StoredResult>,
        pushes: &[Push],
    ) -> Result<Settled, RedisTrouble> {
        let (answer, mut answered) = oneshot::channel();
        self.waiting()
            .push_back(Request::new(tag, result, pushes, answer));
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
            self.send_batch(connection, keys).await;
            if let Ok(answer) = answered.try_recv() {
                return answer;
            }
        }
    }

    async fn send_batch(&self, connection: &Connection, keys: &Keys) {
        let batch: Vec<Request> = {
            let mut waiting = self.waiting();
            let size = waiting.len().min(MAX_BATCH);
            waiting.drain(..size).collect()
        };
        let mut call = ScriptCall::default();
        call.key(keys.unacked()).key(keys.unacked_index());
        let mut answers = Vec::with_capacity(batch.len());
        for request in batch {
            call.extend(request.keys, request.args);
            answers.push(request.answer);
        }
        let settled: Result<Vec<i64>, RedisTrouble> = connection.script(None, &self.script, &call).await;
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

    fn waiting(&self) -> std::sync::MutexGuard<'_, VecDeque<Request>> {
        // Locked for a push or a drain, never across an await.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Request {
    fn new(
        tag: &DeliveryTag,
        result: Option<&StoredResult>,
        pushes: &[Push],
        answer: oneshot::Sender<Result<Settled, RedisTrouble>>,
    ) -> Self {
        let (key, document, expires) = result.map_or(("", "", 0), |result| {
            (&result.key, &result.document, result.expires_seconds)
        });
        let mut keys = vec![key.as_bytes().to_vec()];
        let mut args: Vec<Vec<u8>> = vec![
            tag.0.as_bytes().to_vec(),
            document.as_bytes().to_vec(),
            expires.to_string().into_bytes(),
            pushes.len().to_string().into_bytes(),
        ];
        for push in pushes {
            keys.push(push.list.as_bytes().to_vec());
            args.push(if push.end == End::Front {
                b"R".to_vec()
            } else {
                b"L".to_vec()
            });
            args.push(push.message.as_bytes().to_vec());
        }
        Self { keys, args, answer }
    }
}
