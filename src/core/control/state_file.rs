//! What a worker keeps across a restart, with `--statedb`: the revoked ids and the clock.
//!
//! Python writes a `shelve` of pickles, which nothing else reads; this is JSON. The file is replaced as a whole,
//! so a crash leaves the old or the new one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// The state file at a path.
#[derive(Debug)]
pub(super) struct StateFile(PathBuf);

/// The contents of the state file.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct SavedState {
    /// The logical clock.
    pub(super) clock: u64,
    /// Ids with the Unix time of their revocation in microseconds, oldest first.
    pub(super) revoked: Vec<(String, i64)>,
}

impl SavedState {
    pub(super) fn new(clock: u64, revoked: Vec<(String, DateTime<Utc>)>) -> Self {
        let micros = |(id, since): (String, DateTime<Utc>)| (id, since.timestamp_micros());
        Self {
            clock,
            revoked: revoked.into_iter().map(micros).collect(),
        }
    }

    /// The ids with their times.
    pub(super) fn revoked(&self) -> impl Iterator<Item = (&str, DateTime<Utc>)> {
        let time = |entry: &(String, i64)| DateTime::from_timestamp_micros(entry.1);
        self.revoked
            .iter()
            .filter_map(move |entry| time(entry).map(|at| (entry.0.as_str(), at)))
    }
}

impl StateFile {
    pub(super) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Reads the file; nothing if there is none yet.
    ///
    /// # Errors
    /// When it cannot be read, or holds something else: it is not overwritten then.
    pub(super) fn read(&self) -> io::Result<SavedState> {
        let text = match fs::read_to_string(&self.0) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(SavedState::default()),
            Err(error) => return Err(self.named(&error)),
        };
        serde_json::from_str(&text).map_err(|error| self.named(&io::Error::from(error)))
    }

    /// Replaces the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn write(&self, state: &SavedState) -> io::Result<()> {
        let mut new = self.0.clone().into_os_string();
        new.push(".new");
        let written = File::create(&new).and_then(|mut file| {
            file.write_all(serde_json::to_string(state)?.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &self.0)
        });
        written.map_err(|error| self.named(&error))
    }

    fn named(&self, error: &io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("state file {}: {error}", self.0.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_damage_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let file = StateFile::new(&path);
        assert_eq!(file.read().unwrap().revoked().count(), 0);

        let since = DateTime::from_timestamp_micros(1_795_430_735_802_698).unwrap();
        file.write(&SavedState::new(7, vec![("a".into(), since)]))
            .unwrap();
        file.write(&SavedState::new(
            8,
            vec![("a".into(), since), ("b".into(), since)],
        ))
        .unwrap();
        let read = file.read().unwrap();
        assert_eq!(read.clock, 8);
        assert_eq!(read.revoked().collect::<Vec<_>>(), [("a", since), ("b", since)]);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);

        fs::write(&path, "shelve").unwrap();
        let error = file.read().unwrap_err().to_string();
        assert!(error.contains("state file") && error.contains("state"), "{error}");
    }
}
