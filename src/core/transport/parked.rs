//! Parked messages: set aside because no worker can read them, or because they kill their workers.

use redis::{Script, cmd};
use serde::Deserialize;
use serde_json::Value;

use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_wire::keys::Keys;

/// How many entries are read at a time.
const PAGE: usize = 100;

/// The parked messages in pages, the oldest first. Messages parked meanwhile are at the end.
#[derive(Debug, Default)]
pub struct ParkedPages {
    /// Entries at the old end of the list that have been passed.
    passed: usize,
}

impl ParkedPages {
    /// The next page, `None` at the end. Entries that are no parked messages are left out, so a page may be empty.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn next(
        &mut self,
        connection: &Connection,
        keys: &Keys,
    ) -> Result<Option<Vec<Parked>>, RedisTrouble> {
        let mut range = cmd("LRANGE");
        range.arg(keys.parked());
        // Counted from the old end, places do not change when something is parked.
        range
            .arg(format!("-{}", self.passed + PAGE))
            .arg(format!("-{}", self.passed + 1));
        let entries: Vec<String> = connection.command(&range).await?;
        if entries.is_empty() {
            return Ok(None);
        }
        self.passed += entries.len();
        Ok(Some(entries.into_iter().rev().filter_map(Parked::read).collect()))
    }

    /// Call it after one of the returned messages was removed from the list.
    pub fn one_is_gone(&mut self) {
        self.passed = self.passed.saturating_sub(1);
    }
}

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
    /// How many messages are parked.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn count(connection: &Connection, keys: &Keys) -> Result<usize, RedisTrouble> {
        connection.command(cmd("LLEN").arg(keys.parked())).await
    }

    fn read(stored: String) -> Option<Self> {
        let mut parked: Self = serde_json::from_str(&stored).ok()?;
        parked.stored = stored;
        Some(parked)
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

    /// Publishes the message to the back of the list it came from, and removes it from the parked ones; `false` if it is
    /// not parked any more, or if its list is unknown.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn replay(&self, connection: &Connection, keys: &Keys) -> Result<bool, RedisTrouble> {
        if self.list.is_empty() {
            return Ok(false);
        }
        self.take(connection, keys, Some(&self.list)).await
    }

    /// Deletes the message; `false` if it is not parked any more.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn discard(&self, connection: &Connection, keys: &Keys) -> Result<bool, RedisTrouble> {
        self.take(connection, keys, None).await
    }

    async fn take(
        &self,
        connection: &Connection,
        keys: &Keys,
        list: Option<&str>,
    ) -> Result<bool, RedisTrouble> {
        let script = Script::new(include_str!("scripts/unpark.lua"));
        let mut call = script.prepare_invoke();
        call.key(keys.parked());
        if let Some(list) = list {
            call.key(list);
        }
        call.arg(self.stored.as_str()).arg(self.bytes());
        connection.script(None, &call).await
    }
}
