//! A delivery as the crate wants it: a message without anything the crate would act on.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use celery::broker::{Broker, Delivery};
use celery::error::{BrokerError, ProtocolError};
use celery::protocol::{Message, MessageHeaders, MessageProperties, TryDeserializeMessage};
use chrono::{DateTime, Utc};

use super::handoff::{self, Handoff, Place};

/// One delivery. Dropping it hands the job back if nobody has taken it.
pub(super) struct KombuDelivery {
    place: Place,
    /// Asked for once.
    message: Mutex<Option<Message>>,
}

impl KombuDelivery {
    /// A delivery of a job. What the crate decodes is an empty body: the parameters travel with the job.
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
        Self {
            place,
            message: Mutex::new(Some(message)),
        }
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
        let message = self.message.lock().unwrap_or_else(PoisonError::into_inner).take();
        message.ok_or_else(|| ProtocolError::MissingRequiredHeader("a message that was taken already".into()))
    }
}

#[async_trait]
impl Delivery for KombuDelivery {
    /// The engine has enqueued the next try already.
    async fn resend(&self, _broker: &dyn Broker, _eta: Option<DateTime<Utc>>) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn remove(&self) -> Result<(), BrokerError> {
        self.ack().await
    }

    /// The engine acknowledges together with the outcome. If the crate acknowledges a task that it never
    /// ran, its parameters were refused by the task's type after our own check had let them pass.
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
