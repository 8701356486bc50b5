//! The parked messages: set aside because nobody can read them, or because they kill their worker.

use redis::{Script, cmd};
use serde::Deserialize;
use serde_json::Value;

use super::{Connection, RedisTrouble, ScriptCall};
use crate::core::wire::keys::Keys;

/// One parked message.
#[derive(Debug, Clone, Deserialize)]
pub struct Parked {
    /// Names it in commands.
    pub id: String,
    /// Why it was parked.
    pub reason: String,
    /// The queue it came from; empty when that is not known.
    pub queue: String,
    /// The list it came from.
    pub list: String,
    /// Unix seconds.
    pub parked_at: f64,
    /// The message: text, or a list of bytes where it is no text.
    pub message: Value,
    /// The entry as it is stored.
    #[serde(skip)]
    stored: String,
}

impl Parked {
    /// All parked messages, the oldest first. Entries that are none are left out.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn all(connection: &Connection, keys: &Keys) -> Result<Vec<Self>, RedisTrouble> {
        let entries: Vec<String> = connection
            .command(cmd("LRANGE").arg(keys.parked()).arg(0).arg(-1))
            .await?;
        let read = |stored: String| {
            let mut parked: Self = serde_json::from_str(&stored).ok()?;
            parked.stored = stored;
            Some(parked)
        };
        Ok(entries.into_iter().rev().filter_map(read).collect())
    }

    /// The message's bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        match &self.message {
            Value::Array(bytes) => bytes
                .iter()
                .filter_map(|byte| byte.as_u64().and_then(|b| u8::try_from(b).ok()))
                .collect(),
            other => other.as_str().unwrap_or_default().as_bytes().to_vec(),
        }
    }

    /// Publishes the message to the back of the list it came from, and forgets that it was parked; `false`
    /// if somebody else was faster, or if it came from no known list.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn replay(&self, connection: &Connection, keys: &Keys) -> Result<bool, RedisTrouble> {
        if self.list.is_empty() {
            return Ok(false);
        }
        self.take(connection, keys, &self.list).await
    }

    /// Deletes the message for good; `false` if it is gone already.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn discard(&self, connection: &Connection, keys: &Keys) -> Result<bool, RedisTrouble> {
        self.take(connection, keys, "").await
    }

    async fn take(&self, connection: &Connection, keys: &Keys, list: &str) -> Result<bool, RedisTrouble> {
        let script = Script::new(include_str!("scripts/unpark.lua"));
        let mut call = ScriptCall::default();
        call.key(keys.parked())
            .key(list)
            .arg(self.stored.as_str())
            .arg(self.bytes());
        connection.script(None, &script, &call).await
    }
}
