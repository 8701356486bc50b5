//! The stream of deliveries for the crate's loop.

use std::any::Any;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use celery::broker::{Delivery, DeliveryError, DeliveryStream};
use futures_util::Stream;
use tokio::sync::mpsc;

use super::delivery::KombuDelivery;
use super::handoff::Handoff;
use super::task_set::TaskSet;
use tradebot_core::engine::{Engine, Job};

/// Jobs as deliveries. It never ends: on a stream that has ended the crate's loop spins.
pub(super) struct JobStream {
    pub(super) engine: Arc<Engine>,
    pub(super) tasks: Arc<TaskSet>,
    pub(super) state: Arc<dyn Any + Send + Sync>,
    pub(super) jobs: mpsc::Receiver<Job>,
}

impl JobStream {
    /// Binds the arguments to the task's parameters. A mismatch fails the task at once.
    fn deliver(&self, job: Job) -> Option<KombuDelivery> {
        match self.tasks.parameters(job.message.task(), &job.body) {
            Ok(parameters) => Some(KombuDelivery::new(Handoff {
                engine: Arc::clone(&self.engine),
                tasks: Arc::clone(&self.tasks),
                state: Arc::clone(&self.state),
                job,
                parameters,
            })),
            Err(why) => {
                let engine = Arc::clone(&self.engine);
                tokio::spawn(async move { engine.refuse(job, &why).await });
                None
            }
        }
    }
}

impl Stream for JobStream {
    type Item = Result<Box<dyn Delivery>, Box<dyn DeliveryError>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while let Poll::Ready(next) = self.jobs.poll_recv(cx) {
            let Some(job) = next else {
                return Poll::Pending;
            };
            if let Some(delivery) = self.deliver(job) {
                return Poll::Ready(Some(Ok(Box::new(delivery))));
            }
        }
        Poll::Pending
    }
}

impl DeliveryStream for JobStream {}

impl Drop for JobStream {
    /// Returns the jobs that were received and never started.
    fn drop(&mut self) {
        self.jobs.close();
        while let Ok(job) = self.jobs.try_recv() {
            let engine = Arc::clone(&self.engine);
            tokio::spawn(async move { engine.return_unstarted(job).await });
        }
    }
}
