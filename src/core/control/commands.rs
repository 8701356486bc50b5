//! The commands, by the names that Celery gives them (`celery.worker.control`).

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use tracing::{error, info, warn};

use super::arguments::{Arguments, CommandError, not_ok, ok};
use super::inspect;
use super::node::Node;
use crate::engine::{Limits, RateError, RateLimit, TaskType};
use crate::transport::Queue;
use tradebot_base::error_chain;

/// A command's reply.
pub(super) enum CommandReply {
    /// A value.
    Value(Value),
    /// No reply, even if the client wants one.
    Silence,
}

impl Node {
    /// Runs a command.
    pub(super) async fn run(&self, arguments: &Arguments<'_>) -> Result<CommandReply, CommandError> {
        let value = match arguments.command {
            "ping" => ok("pong"),
            "clock" => json!({"clock": self.engine().lamport().value()}),
            "stats" => self.stats(),
            "active" | "dump_active" => inspect::active(self, arguments.flag("safe")),
            "reserved" | "dump_reserved" => inspect::reserved(self),
            "scheduled" | "dump_schedule" => inspect::scheduled(self),
            "revoked" | "dump_revoked" => json!(self.revoked_ids()),
            "registered" | "dump_tasks" => inspect::registered(self, arguments),
            "active_queues" => inspect::active_queues(self),
            "query_task" => inspect::query_task(self, arguments)?,
            "conf" | "dump_conf" => Value::Object(self.settings.conf.clone()),
            "report" => ok(self.report()),
            "memsample" => inspect::memsample(),
            "memdump" => {
                return Err(CommandError::new(
                    "NotImplementedError",
                    "this worker keeps no samples of its memory",
                ));
            }
            "objgraph" => return Err(CommandError::new("ImportError", "Requires the objgraph library")),
            "hello" => self.hello(arguments)?,
            "revoke" => self.revoke(arguments, arguments.flag("terminate")).await?,
            "terminate" => {
                arguments.required("signal")?;
                self.revoke(arguments, true).await?
            }
            "revoke_by_stamped_headers" => self.revoke_by_stamped_headers(arguments)?,
            "rate_limit" => self.rate_limit(arguments)?,
            "time_limit" => self.time_limit(arguments)?,
            "add_consumer" => self.add_consumer(arguments).await?,
            "cancel_consumer" => self.cancel_consumer(arguments)?,
            "pool_grow" => self.pool_grow(arguments)?,
            "pool_shrink" => self.pool_shrink(arguments)?,
            "pool_restart" => return Err(CommandError::value("Pool restarts not enabled")),
            "autoscale" => return Err(CommandError::value("Autoscale not enabled")),
            "enable_events" => self.enable_events(),
            "disable_events" => self.disable_events(),
            "heartbeat" => {
                self.engine().events().heartbeat_on_request();
                Value::Null
            }
            // This worker has no gossip, and so no vote.
            "election" => Value::Null,
            "shutdown" => {
                let text = arguments.text("msg").unwrap_or("Got shutdown from remote");
                warn!("{text}");
                self.engine().stop().stop_warm();
                return Ok(CommandReply::Silence);
            }
            unknown => return Err(CommandError::new("KeyError", unknown)),
        };
        Ok(CommandReply::Value(value))
    }

    /// Replies to a starting worker with the revoked ids; with null to itself.
    fn hello(&self, arguments: &Arguments<'_>) -> Result<Value, CommandError> {
        let from = arguments.required_text("from_node")?;
        if from == self.name() {
            if !self.mingling.load(Ordering::Relaxed) {
                self.warn_of_twin();
            }
            return Ok(Value::Null);
        }
        info!("sync with {from}");
        self.take_over(arguments.get("revoked"));
        Ok(json!({"revoked": self.revoked_ids(), "clock": self.engine().lamport().forward()}))
    }

    fn known_task(&self, arguments: &Arguments<'_>, what: &str) -> Result<Option<&TaskType>, CommandError> {
        let name = arguments.required_text("task_name")?;
        let task = self.engine().task_type(name);
        if task.is_none() {
            error!(task.name = name, "{what} attempt for unknown task");
        }
        Ok(task.map(|task| &**task))
    }

    fn rate_limit(&self, arguments: &Arguments<'_>) -> Result<Value, CommandError> {
        arguments.required("task_name")?;
        let given = arguments.required("rate_limit")?;
        let limit = match RateLimit::parse(given) {
            Ok(limit) => limit,
            Err(RateError::Value(text)) => {
                let reason = CommandError::value(text).repr();
                return Ok(not_ok(format!("Invalid rate limit string: {reason}")));
            }
            Err(RateError::Key(key)) => return Err(CommandError::new("KeyError", key)),
        };
        let Some(task) = self.known_task(arguments, "rate limit")? else {
            return Ok(not_ok("unknown task"));
        };
        info!(task.name = task.name(), rate_limit = %given, "new rate limit");
        task.rate().set(limit);
        self.engine().transport().look_again();
        if arguments.flag("rate_limit") {
            Ok(ok("new rate limit set successfully"))
        } else {
            Ok(ok("rate limit disabled successfully"))
        }
    }

    fn time_limit(&self, arguments: &Arguments<'_>) -> Result<Value, CommandError> {
        let Some(task) = self.known_task(arguments, "time limit")? else {
            return Ok(not_ok("unknown task"));
        };
        let limits = Limits {
            hard: limit(arguments, "hard")?,
            soft: limit(arguments, "soft")?,
        };
        task.set_limits(limits);
        info!(
            task.name = task.name(),
            soft = ?limits.soft,
            hard = ?limits.hard,
            "new time limits"
        );
        Ok(ok("time limits set successfully"))
    }

    async fn add_consumer(&self, arguments: &Arguments<'_>) -> Result<Value, CommandError> {
        let name = arguments.required_text("queue")?;
        let exchange_type = arguments.text("exchange_type").filter(|kind| !kind.is_empty());
        let exchange_type = exchange_type.unwrap_or("direct");
        if name.is_empty() {
            return Err(CommandError::value("a queue has a name"));
        }
        if !matches!(exchange_type, "direct" | "topic") {
            let text =
                format!("this worker consumes from direct and topic exchanges, not from {exchange_type}");
            return Err(CommandError::value(text));
        }
        let queue = Queue {
            name: name.to_owned(),
            exchange: arguments.text("exchange").unwrap_or(name).to_owned(),
            exchange_type: exchange_type.to_owned(),
            routing_key: arguments.text("routing_key").unwrap_or(name).to_owned(),
        };
        if self.transport.add_queue(queue) {
            info!(queue = name, "started consuming");
            if let Err(trouble) = self.transport.bind_queues().await {
                warn!(queue = name, error = %error_chain(&trouble), "cannot bind the queue; the consumer binds it when it reconnects");
            }
        }
        Ok(ok(format!("add consumer {name}")))
    }

    fn cancel_consumer(&self, arguments: &Arguments<'_>) -> Result<Value, CommandError> {
        let name = arguments.required_text("queue")?;
        if self.transport.remove_queue(name) {
            info!(queue = name, "canceling queue");
        }
        Ok(ok(format!("no longer consuming from {name}")))
    }

    fn pool_grow(&self, arguments: &Arguments<'_>) -> Result<Value, CommandError> {
        let concurrency = self.engine().pool().grow(arguments.count("n")?);
        info!(concurrency, "pool grows");
        Ok(ok("pool will grow"))
    }

    fn pool_shrink(&self, arguments: &Arguments<'_>) -> Result<Value, CommandError> {
        let fewer = arguments.count("n")?;
        if fewer >= self.engine().pool().concurrency() {
            return Err(CommandError::value("the pool cannot shrink to less than one"));
        }
        let concurrency = self.engine().pool().shrink(fewer);
        info!(concurrency, "pool shrinks");
        Ok(ok("pool will shrink"))
    }

    fn enable_events(&self) -> Value {
        if self.engine().events().switch().enable() {
            info!("events of group {{task}} enabled by remote");
            ok("task events enabled")
        } else {
            ok("task events already enabled")
        }
    }

    fn disable_events(&self) -> Value {
        if self.engine().events().switch().disable() {
            info!("events of group {{task}} disabled by remote");
            ok("task events disabled")
        } else {
            ok("task events already disabled")
        }
    }
}

/// A limit in seconds; none if absent or zero.
fn limit(arguments: &Arguments<'_>, name: &str) -> Result<Option<Duration>, CommandError> {
    let Some(value) = arguments.get(name) else {
        return Ok(None);
    };
    let seconds = value
        .as_f64()
        .ok_or_else(|| CommandError::new("TypeError", format!("{name} must be a number")))?;
    let limit = Duration::try_from_secs_f64(seconds)
        .map_err(|_| CommandError::value(format!("{name} must be a number of seconds")))?;
    Ok(Some(limit).filter(|limit| !limit.is_zero()))
}
