//! `tests/celery.md`: every row names tests that exist.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The source of a test's module: `suite::module` below `tests`, `lib::module` below `src`, `beat::module` below `beat/src`.
fn source_of(root: &Path, modules: &[&str]) -> Option<String> {
    let (suite, modules) = modules.split_first()?;
    let mut path: PathBuf = match *suite {
        "lib" => root.join("src"),
        "beat" => root.join("beat/src"),
        suite => root.join("tests").join(suite),
    };
    path.extend(modules);
    let candidates = [path.with_extension("rs"), path.join("tests.rs")];
    let sources: Vec<String> = candidates
        .iter()
        .filter(|path| path.exists())
        .map(|path| read(path))
        .collect();
    (!sources.is_empty()).then(|| sources.concat())
}

/// Whether the source has a test function of this name.
fn has_test(source: &str, name: &str) -> bool {
    let marked = |mark| source.split(mark).skip(1);
    marked("#[test]").chain(marked("#[tokio::test")).any(|behind| {
        let head: String = behind.lines().take(4).collect();
        head.contains(&format!("fn {name}("))
    })
}

fn has_workflow(canvas: &str, name: &str) -> bool {
    ["@workflow\n", "@workflow_since(5, 7, 0)\n"]
        .iter()
        .any(|mark| canvas.contains(&format!("{mark}def {name}(m)")))
}

#[test]
fn every_row_of_the_table_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let canvas = read(&root.join("tests/python/canvas.py"));
    let table = read(&root.join("tests/celery.md"));
    let (mut missing, mut features) = (Vec::new(), BTreeSet::new());
    let rows = table
        .lines()
        .filter(|line| line.starts_with("| ") && !line.contains("Shown by"));
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [feature, _, tests] = cells.as_slice() else {
            panic!("a row of {} cells: {row}", cells.len())
        };
        assert!(features.insert(feature.to_owned()), "twice: {feature}");
        let named: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "no test: {row}");
        for test in named {
            let mut modules: Vec<&str> = test.split("::").collect();
            let name = modules.pop().unwrap_or_default();
            let exists = if modules.is_empty() {
                has_workflow(&canvas, name)
            } else {
                source_of(root, &modules).is_some_and(|source| has_test(&source, name))
            };
            if !exists {
                missing.push(format!("{feature}: {test}"));
            }
        }
    }
    assert!(features.len() > 30, "{} features", features.len());
    assert!(missing.is_empty(), "no such tests:\n{}", missing.join("\n"));
}
