//! The engine as a broker of the crate's app.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use celery::broker::{Broker, Delivery, DeliveryStream};
use celery::error::BrokerError;
use celery::protocol::Message;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::stream::JobStream;
use super::task_set::TaskSet;
use tradebot_base::clock::SharedClock;
use tradebot_core::engine::{Engine, Job};
use tradebot_wire::body::Body;
use tradebot_wire::task_message::{self, TaskMessage};

/// Delivers the engine's jobs, and publishes messages that tasks send.
pub(super) struct KombuBroker {
    pub(super) engine: Arc<Engine>,
    pub(super) tasks: Arc<TaskSet>,
    pub(super) state: Arc<dyn Any + Send + Sync>,
    pub(super) clock: SharedClock,
    /// The only consumer takes it.
    pub(super) jobs: Mutex<Option<mpsc::Receiver<Job>>>,
}

#[async_trait]
impl Broker for KombuBroker {
    fn safe_url(&self) -> String {
        self.engine.transport().connection().place().to_owned()
    }

    async fn consume(
        &self,
        _queue: &str,
        _error_handler: Box<dyn Fn(BrokerError) + Send + Sync + 'static>,
    ) -> Result<(String, Box<dyn DeliveryStream>), BrokerError> {
        // One stream carries all queues. The engine handles transport errors: it retries sooner than the crate.
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(jobs) = jobs else {
            return Err(BrokerError::UnknownQueue(
                "the engine's stream already has a consumer".into(),
            ));
        };
        let stream = JobStream {
            engine: Arc::clone(&self.engine),
            tasks: Arc::clone(&self.tasks),
            state: Arc::clone(&self.state),
            jobs,
        };
        Ok(("engine".into(), Box::new(stream)))
    }

    /// Does nothing: the crate cancels on a signal, which the engine receives as well.
    async fn cancel(&self, _consumer_tag: &str) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn ack(&self, delivery: &dyn Delivery) -> Result<(), BrokerError> {
        delivery.ack().await
    }

    async fn retry(&self, delivery: &dyn Delivery, eta: Option<DateTime<Utc>>) -> Result<(), BrokerError> {
        delivery.resend(self, eta).await
    }

    /// Publishes a message sent through the crate, with the headers that Python needs and the crate omits.
    async fn send(&self, message: &Message, queue: &str) -> Result<(), BrokerError> {
        let (args, kwargs, _): (Vec<Value>, Map<String, Value>, Value) =
            serde_json::from_slice(&message.raw_body)?;
        let mut headers = Map::new();
        let (hard, soft) = message.headers.timelimit;
        headers.insert("timelimit".into(), json!([hard, soft]));
        let task = TaskMessage {
            task: message.headers.task.clone(),
            id: message.headers.id.clone(),
            body: Body {
                args,
                kwargs,
                embed: Map::new(),
            },
            queue: queue.to_owned(),
            eta: message.headers.eta,
            expires: message.headers.expires,
            root_id: message.headers.root_id.clone(),
            parent_id: message.headers.parent_id.clone(),
            headers,
            ..TaskMessage::default()
        };
        let origin = task_message::origin(&self.engine.settings().machine);
        let envelope = task.into_envelope(&origin, self.clock.now());
        let sent = self.engine.transport().publish(queue, &envelope).await;
        sent.map_err(|trouble| BrokerError::IoError(std::io::Error::other(trouble)))
    }

    async fn increase_prefetch_count(&self) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn decrease_prefetch_count(&self) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn close(&self) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn reconnect(&self, _connection_timeout: u32) -> Result<(), BrokerError> {
        Ok(())
    }
}
