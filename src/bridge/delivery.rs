//! A delivery for the crate: a message without any header that the crate acts on.

use std::fmt;

use async_trait::async_trait;
use celery::broker::{Broker, Delivery};
use celery::error::{BrokerError, ProtocolError};
use celery::protocol::{Message, MessageHeaders, MessageProperties, TryDeserializeMessage};
use chrono::{DateTime, Utc};

use super::handoff::{self, Handoff, Place};

/// One delivery. Dropping it returns a job that was not taken.
pub(super) struct KombuDelivery {
    place: Place,
    message: Message,
}

impl KombuDelivery {
    /// A delivery of a job, with an empty body: the parameters stay with the job.
    pub(super) fn new(handoff: Handoff) -> Self {
        let job = &handoff.job;
        let headers = MessageHeaders {
            id: job.message.id().to_owned(),
            task: job.message.task().to_owned(),
            retries: Some(job.message.retries()),
            ..MessageHeaders::default()
        };
        let place = handoff::leave(handoff);
        let properties = MessageProperties {
            correlation_id: place.to_text(),
            content_type: "application/json".into(),
            content_encoding: "utf-8".into(),
            reply_to: None,
        };
        let message = Message {
            properties,
            headers,
            raw_body: b"[[],{},{}]".to_vec(),
        };
        Self { place, message }
    }
}

impl Drop for KombuDelivery {
    fn drop(&mut self) {
        if let Some(handoff) = handoff::take(self.place) {
            tokio::spawn(async move { handoff.engine.return_unstarted(handoff.job).await });
        }
    }
}

impl fmt::Debug for KombuDelivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KombuDelivery")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl TryDeserializeMessage for KombuDelivery {
    fn try_deserialize_message(&self) -> Result<Message, ProtocolError> {
        Ok(self.message.clone())
    }
}

#[async_trait]
impl Delivery for KombuDelivery {
    /// Does nothing: the engine has already enqueued the next try.
    async fn resend(&self, _broker: &dyn Broker, _eta: Option<DateTime<Utc>>) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn remove(&self) -> Result<(), BrokerError> {
        self.ack().await
    }

    /// The engine acknowledges together with the outcome. A job that still waits here was never run: the task's type
    /// refused parameters that our own check had accepted.
    async fn ack(&self) -> Result<(), BrokerError> {
        if let Some(handoff) = handoff::take(self.place) {
            handoff
                .engine
                .refuse(handoff.job, "the arguments do not fit the task's parameters")
                .await;
        }
        Ok(())
    }
}
