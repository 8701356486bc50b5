//! A client for other Rust programs: sends tasks to Celery workers in any language, and waits for their results.
//!
//! Needs only the feature `client`.
//!
//! ```
//! # use tradebot_test_support::RedisServer;
//! # let redis = RedisServer::start();
//! # let url = redis.url();
//! use std::collections::BTreeMap;
//! use std::time::Duration;
//! use tradebot_symbols::client::{ClientSettings, ResultError, Signature, blocking::Client};
//!
//! // `ProcessEnvironment` reads the real environment.
//! let environment = BTreeMap::from([
//!     ("CELERY_BROKER_URL", url.as_str()),
//!     ("CELERY_RESULT_BACKEND", url.as_str()),
//! ]);
//! let client = Client::new(&ClientSettings::read(&environment)?, "my-program")?;
//! let add = |x: i64| Signature::task("proj.add").arg(x);
//! let sent = client.send(Signature::group([add(1).arg(2), add(3).arg(4)]) | Signature::task("proj.sum"))?;
//!
//! // No worker runs here.
//! let result = client.get(&sent, Duration::from_millis(50));
//! assert!(matches!(result, Err(ResultError::Timeout(_))));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub use tradebot_base::config::{ConfigError, ProcessEnvironment, Vars};
pub use tradebot_core::client::{AsyncResult, Client, ClientError, ClientSettings, ResultError, blocking};
pub use tradebot_wire::canvas::{SendError, Signature};
pub use tradebot_wire::result::Exception;
