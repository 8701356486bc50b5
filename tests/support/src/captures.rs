//! Recorded answers of the real exchange, kept outside the repository.

use std::path::{Path, PathBuf};

use crate::python::workspace;

/// A market of the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Market {
    /// Spot, files `spot-*.json`.
    Spot,
    /// USD-M futures, files `fut-*.json`.
    Futures,
}

/// The folder of captured answers.
#[derive(Clone, Debug)]
pub struct Captures {
    folder: PathBuf,
    files: Vec<Capture>,
}

/// One captured `exchangeInfo` body.
#[derive(Clone, Debug)]
pub struct Capture {
    /// The file name, for messages.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// The market it belongs to.
    pub market: Market,
}

/// The captured answers in the folder `BINANCE_CAPTURES`, by default `../shared/binance` beside the workspace.
/// Without any it says so on stderr and returns `None`.
///
/// # Panics
/// When `BINANCE_CAPTURES` names a folder without captures.
#[must_use]
pub fn captures() -> Option<Captures> {
    let (folder, required) = match std::env::var_os("BINANCE_CAPTURES") {
        Some(folder) => (workspace().join(folder), true),
        None => (workspace().join("../shared/binance"), false),
    };
    let files = list(&folder);
    if files.is_empty() {
        assert!(
            !required,
            "BINANCE_CAPTURES names {}, which has no captures",
            folder.display()
        );
        skipped(&folder);
        return None;
    }
    Some(Captures { folder, files })
}

impl Captures {
    /// Every captured list, ordered by name.
    #[must_use]
    pub fn files(&self) -> &[Capture] {
        &self.files
    }

    /// The captured lists of one market, ordered by name.
    pub fn of(&self, market: Market) -> impl Iterator<Item = &Capture> {
        self.files.iter().filter(move |file| file.market == market)
    }

    /// The bytes of any file in the folder, whether or not it holds a list of these markets.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn read(&self, name: &str) -> Vec<u8> {
        read(&self.folder.join(name))
    }
}

impl Capture {
    /// The body as it was sent.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        read(&self.path)
    }
}

impl Market {
    /// `spot` or `futures`, as in the keys of the cache.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Spot => "spot",
            Self::Futures => "futures",
        }
    }

    fn of_file(name: &str) -> Option<Self> {
        let list = name.strip_suffix(".json")?;
        match list.split_once('-')?.0 {
            "spot" => Some(Self::Spot),
            "fut" => Some(Self::Futures),
            _ => None,
        }
    }
}

fn list(folder: &Path) -> Vec<Capture> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let capture = |path: PathBuf| {
        let name = path.file_name()?.to_str()?.to_owned();
        let market = Market::of_file(&name)?;
        Some(Capture { name, path, market })
    };
    let mut files: Vec<_> = entries.filter_map(|entry| capture(entry.ok()?.path())).collect();
    files.sort_by(|one, other| one.name.cmp(&other.name));
    files
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

#[expect(
    clippy::print_stderr,
    reason = "a skipped test must say so where its reader looks"
)]
fn skipped(folder: &Path) {
    eprintln!("skipped: no captured exchange answers in {}", folder.display());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_name_tells_the_market() {
        for (name, market) in [
            ("spot-2021-10-12.json", Some(Market::Spot)),
            ("fut-testnet-2025-03-06.json", Some(Market::Futures)),
            ("coinm-2025-08-07-first25.json", None),
            ("http451-2022-12-07.json", None),
            ("spot-notes.md", None),
        ] {
            assert_eq!(Market::of_file(name), market, "{name}");
        }
    }
    #[test]
    fn lists_bodies_of_both_markets() {
        let Some(captures) = captures() else { return };
        for market in [Market::Spot, Market::Futures] {
            assert!(captures.of(market).count() > 0, "{}", market.as_str());
        }
        for file in captures.files() {
            assert_eq!(file.bytes().first(), Some(&b'{'), "{}", file.name);
            assert_eq!(captures.read(&file.name).len(), file.bytes().len());
        }
    }
}
