//! A delivery as the crate wants it: a message without anything the crate would act on.

use std::fmt;

use async_trait::async_trait;
use celery::broker::{Broker, Delivery};
use celery::error::{BrokerError, ProtocolError};
use celery::protocol::{Message, MessageHeaders, MessageProperties, TryDeserializeMessage};
use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use super::handoff;
use crate::core::engine::Job;

/// One delivery. Dropping it hands the job back if nobody has taken it.
pub(super) struct KombuDelivery {
    tag: String,
    message: Message,
}

impl KombuDelivery {
    /// A delivery of `job` with its arguments already matched to the task's parameters.
    pub(super) fn new(job: &Job, parameters: &Map<String, Value>) -> Self {
        let tag = job.tag.0.clone();
        let headers = MessageHeaders {
            id: job.message.id().to_owned(),
            task: job.message.task().to_owned(),
            retries: Some(job.message.retries()),
            ..MessageHeaders::default()
        };
        let properties = MessageProperties {
            correlation_id: tag.clone(),
            content_type: "application/json".into(),
            content_encoding: "utf-8".into(),
            reply_to: None,
        };
        let raw_body = json!([[], parameters, {}]).to_string().into_bytes();
        Self {
            tag,
            message: Message {
                properties,
                headers,
                raw_body,
            },
        }
    }
}

impl Drop for KombuDelivery {
    fn drop(&mut self) {
        if let Some(handoff) = handoff::take(&self.tag) {
            tokio::spawn(async move { handoff.engine.return_unstarted(handoff.job).await });
        }
    }
}

impl fmt::Debug for KombuDelivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KombuDelivery")
            .field("tag", &self.tag)
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
        if let Some(handoff) = handoff::take(&self.tag) {
            handoff
                .engine
                .refuse(handoff.job, "the arguments do not fit the task's parameters")
                .await;
        }
        Ok(())
    }
}
